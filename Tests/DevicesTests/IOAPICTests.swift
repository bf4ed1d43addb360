import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Testing

@Suite("I/O APIC")
struct IOAPICTests {
    let machine = FakeMachine()
    let ioapic: IOAPIC
    let window: RegisterWindow

    init() {
        ioapic = IOAPIC(machine: machine)
        window = RegisterWindow(ioapic)
    }

    func read(_ register: UInt32) -> UInt32 {
        window.write32(0, register)
        return window.read32(0x10)
    }

    func write(_ register: UInt32, _ value: UInt32) {
        window.write32(0, register)
        window.write32(0x10, value)
    }

    func setPin(_ pin: UInt32, low: UInt32, high: UInt32 = 0) {
        write(0x11 + 2 * pin, high)
        write(0x10 + 2 * pin, low)
    }

    func set(_ line: InterruptLine, _ level: Bool) {
        if line.set(level) { line.deliver() }
    }

    @Test("it is version 0x20 with 24 pins, all masked")
    func identity() {
        #expect(read(1) == 0x0017_0020)
        #expect((0..<24).allSatisfy { read(0x10 + 2 * $0) == 0x1_0000 })
        write(0, 0x0500_0000)
        #expect(read(0) == 0x0500_0000)
        #expect(read(2) == 0x0500_0000)
        #expect(read(0xFF) == 0)
    }

    @Test("a rising edge is one message, with the entry's destination and mode")
    func edge() {
        let line = InterruptLine(ioapic, pin: 4)
        setPin(4, low: 0x0000_0831, high: 0x0300_0000)
        set(line, true)
        set(line, true)
        set(line, false)
        let expected = MSIMessage(address: 0xFEE0_3004, data: 0x31)
        #expect(machine.takeMessages() == [expected])
        set(line, true)
        #expect(machine.takeMessages() == [expected])
    }

    @Test("a pulse between two deliveries is still an edge")
    func pulse() {
        let line = InterruptLine(ioapic, pin: 4)
        setPin(4, low: 0x31)
        set(line, true)
        _ = machine.takeMessages()
        _ = line.set(false)
        _ = line.set(true)
        line.deliver()
        #expect(machine.takeVectors() == [0x31])
    }

    @Test("an edge at a masked pin is lost")
    func maskedEdge() {
        let line = InterruptLine(ioapic, pin: 4)
        setPin(4, low: 0x1_0031)
        set(line, true)
        setPin(4, low: 0x31)
        #expect(machine.takeMessages().isEmpty)
    }

    @Test("a level interrupts once, and again after its end while it is asserted")
    func level() {
        let line = InterruptLine(ioapic, pin: 9)
        setPin(9, low: 0x8042)
        set(line, true)
        #expect(machine.takeMessages() == [MSIMessage(address: 0xFEE0_0000, data: 0xC042)])
        #expect(read(0x22) == 0xC042)
        ioapic.endOfInterrupt(vector: 0x41)
        #expect(machine.takeMessages().isEmpty)
        ioapic.endOfInterrupt(vector: 0x42)
        #expect(machine.takeVectors() == [0x42])
        set(line, false)
        window.write32(0x40, 0x42)
        #expect(machine.takeMessages().isEmpty)
        #expect(read(0x22) == 0x8042)
    }

    @Test("a level at a masked pin interrupts when it is unmasked")
    func maskedLevel() {
        let line = InterruptLine(ioapic, pin: 9)
        setPin(9, low: 0x1_8042)
        set(line, true)
        #expect(machine.takeMessages().isEmpty)
        setPin(9, low: 0x8042)
        #expect(machine.takeVectors() == [0x42])
    }

    @Test("remote IRR cannot be written, and goes away with the level mode")
    func remoteIRR() {
        let line = InterruptLine(ioapic, pin: 9)
        setPin(9, low: 0x8042)
        set(line, true)
        setPin(9, low: 0x8042)
        #expect(read(0x22) == 0xC042)
        setPin(9, low: 0x1_0042)
        #expect(read(0x22) == 0x1_0042)
    }
}
