import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Synchronization
import Testing

@Suite("Serial port")
struct SerialTests {
    let machine = FakeMachine()
    let serial: Serial
    let ports: RegisterWindow
    let wakeUps = Counters()

    final class Counters: Sendable {
        let output = Atomic<Int>(0)
        let input = Atomic<Int>(0)
    }

    init() {
        let ioapic = IOAPIC(machine: machine)
        // Pin 4: edge, vector 0x24.
        _ = ioapic.write(offset: 0, size: 4, 0x18)
        _ = ioapic.write(offset: 0x10, size: 4, 0x24)
        let counters = wakeUps
        serial = Serial(
            line: InterruptLine(ioapic, pin: 4),
            events: .init(
                outputReady: { counters.output.add(1, ordering: .relaxed) },
                inputReady: { counters.input.add(1, ordering: .relaxed) }),
            inputCapacity: 64, outputCapacity: 64)
        ports = RegisterWindow(serial)
    }

    var outputWakeUps: Int { wakeUps.output.load(ordering: .relaxed) }
    var inputWakeUps: Int { wakeUps.input.load(ordering: .relaxed) }
    var interrupts: Int { machine.takeVectors().count }

    func enableInterrupts(_ ier: UInt8) {
        ports.write8(4, 0x0B)
        ports.write8(1, ier)
    }

    // The steps of Linux's detection (drivers/tty/serial/8250/8250_port.c, autoconfig).

    @Test("Linux's detection finds a 16550A")
    func detection() {
        ports.write8(1, 0)
        #expect(ports.read8(1) == 0)
        ports.write8(1, 0x0F)
        #expect(ports.read8(1) & 0x0F == 0x0F)
        ports.write8(1, 0)
        ports.write8(4, 0x1A)
        #expect(ports.read8(6) & 0xF0 == 0x90)
        ports.write8(4, 0)
        ports.write8(3, 0)
        ports.write8(2, 0x01)
        #expect(ports.read8(2) >> 6 == 3)
        ports.write8(3, 0x80)
        #expect(ports.read8(2) != 0)
        ports.write8(3, 0)
        // No 64-byte FIFO, and no extra bits in IER.
        ports.write8(2, 0x21)
        #expect(ports.read8(2) & 0x20 == 0)
        ports.write8(1, 0x40)
        #expect(ports.read8(1) == 0)
    }

    @Test("the loopback FIFO holds 16 bytes, and the next one is an overrun")
    func loopbackDepth() {
        ports.write8(2, 0x07)
        ports.write8(4, 0x10)
        for byte in 0..<20 as Range<UInt8> { ports.write8(0, byte) }
        #expect(ports.read8(5) == 0x63)
        #expect(ports.read8(5) == 0x61)
        #expect((0..<16).map { _ in ports.read8(0) } == Array(0..<16))
        #expect(ports.read8(5) == 0x60)
        #expect(serial.takeOutput(maximum: 100).isEmpty)
    }

    @Test("without FIFO a newer byte replaces the older one")
    func loopbackOverrun() {
        ports.write8(4, 0x10)
        ports.write8(0, 1)
        ports.write8(0, 2)
        #expect(ports.read8(5) == 0x63)
        #expect(ports.read8(0) == 2)
    }

    @Test("modem control loops back to modem status, with the changes")
    func modemLoopback() {
        ports.write8(4, 0x10)
        _ = ports.read8(6)
        ports.write8(4, 0x1F)
        #expect(ports.read8(6) == 0xFB)
        ports.write8(4, 0x1B)
        #expect(ports.read8(6) == 0xB4)
        ports.write8(4, 0x00)
        #expect(ports.read8(6) & 0xF0 == 0xB0)
    }

    @Test("the divisor latch hides data and interrupt enable")
    func divisorLatch() {
        ports.write8(1, 0x05)
        ports.write8(3, 0x83)
        ports.write8(0, 0x01)
        ports.write8(1, 0x02)
        #expect(ports.read16(0) == 0x0201)
        ports.write8(3, 0x03)
        #expect(ports.read8(1) == 0x05)
        #expect(outputWakeUps == 0)
        ports.write8(7, 0x5A)
        #expect(ports.read8(7) == 0x5A)
    }

    @Test("the interrupt of the transmitter: enabled, read, enabled again, sent")
    func transmitInterrupt() {
        enableInterrupts(0x02)
        #expect(interrupts == 1)
        #expect(ports.read8(2) == 0x02)
        #expect(ports.read8(2) == 0x01)
        // Linux checks that enabling raises it again (serial8250_do_startup).
        ports.write8(1, 0)
        ports.write8(1, 2)
        #expect(ports.read8(2) == 0x02)
        #expect(interrupts == 1)
        ports.write8(0, 0x41)
        #expect(interrupts == 1)
        // Each byte is a new edge even while the cause stands.
        ports.write8(0, 0x42)
        #expect(interrupts == 1)
        #expect(serial.takeOutput(maximum: 100) == [0x41, 0x42])
    }

    @Test("OUT2 gates the interrupt")
    func gate() {
        ports.write8(1, 0x02)
        #expect(interrupts == 0)
        ports.write8(4, 0x08)
        #expect(interrupts == 1)
    }

    @Test("input interrupts at the trigger level, and by timeout below it")
    func receiveInterrupt() {
        ports.write8(2, 0x81)
        enableInterrupts(0x01)
        #expect(serial.receive(Array(1...3)) == 3)
        #expect(interrupts == 1)
        #expect(ports.read8(2) == 0xCC)
        #expect(serial.receive(Array(4...9)) == 6)
        #expect(ports.read8(2) == 0xC4)
        #expect(ports.read8(5) & 1 == 1)
        #expect((1...9).map { _ in ports.read8(0) } == Array(1...9))
        #expect(ports.read8(2) == 0xC1)
        #expect(ports.read8(5) & 1 == 0)
        #expect(serial.receive([10]) == 1)
        #expect(interrupts == 1)
    }

    @Test("the most urgent cause comes first")
    func priority() {
        ports.write8(2, 0x01)
        enableInterrupts(0x0F)
        ports.write8(0, 0x41)
        _ = serial.receive([1])
        #expect(ports.read8(2) == 0xC4)
        _ = ports.read8(0)
        #expect(ports.read8(2) == 0xC2)
        #expect(ports.read8(2) == 0xC1)
    }

    @Test("a host that does not read makes the transmitter busy, and nothing is lost")
    func backPressure() {
        ports.write8(2, 0x01)
        enableInterrupts(0x02)
        var sent: UInt8 = 0
        while ports.read8(5) & 0x20 != 0 {
            ports.write8(0, sent)
            sent += 1
        }
        #expect(sent == 49)
        #expect(ports.read8(2) == 0xC1)
        _ = interrupts
        #expect(serial.takeOutput(maximum: 10) == Array(0..<10))
        #expect(interrupts == 1)
        #expect(ports.read8(5) & 0x60 == 0x60)
        #expect(serial.takeOutput(maximum: 100) == Array(10..<49))
    }

    @Test("output is announced once until it has been taken")
    func outputEvents() {
        ports.write8(0, 1)
        ports.write8(0, 2)
        #expect(outputWakeUps == 1)
        #expect(serial.takeOutput(maximum: 100) == [1, 2])
        ports.write8(0, 3)
        #expect(outputWakeUps == 1)
        #expect(serial.takeOutput(maximum: 100) == [3])
        #expect(serial.takeOutput(maximum: 100).isEmpty)
        ports.write8(0, 4)
        #expect(outputWakeUps == 2)
    }

    @Test("input beyond the buffer is refused, and asked for when there is room")
    func inputBackPressure() {
        ports.write8(2, 0x01)
        enableInterrupts(0x01)
        #expect(serial.receive([UInt8](repeating: 7, count: 100)) == 64)
        for _ in 0..<31 { _ = ports.read8(0) }
        #expect(inputWakeUps == 0)
        _ = ports.read8(0)
        #expect(inputWakeUps == 1)
        #expect(serial.receive([UInt8](repeating: 8, count: 36)) == 32)
    }

    @Test("input typed before a driver starts is not lost when it empties the FIFO")
    func typeAhead() {
        #expect(serial.receive([1, 2, 3]) == 3)
        ports.write8(2, 0x01)
        ports.write8(2, 0x07)
        _ = ports.read8(5)
        _ = ports.read8(0)
        enableInterrupts(0x05)
        #expect(interrupts == 1)
        #expect((1...3).map { _ in ports.read8(0) } == [1, 2, 3])
    }

    @Test("a driver that polls gets input without interrupts")
    func polling() {
        _ = serial.receive([0x61])
        var polls = 0
        while ports.read8(5) & 1 == 0, polls < 100 { polls += 1 }
        #expect(polls < 100)
        #expect(ports.read8(0) == 0x61)
    }

    @Test("a reset keeps what is on its way")
    func reset() {
        ports.write8(0, 0x41)
        enableInterrupts(0x0F)
        serial.reset()
        #expect(ports.read8(1) == 0)
        #expect(ports.read8(4) == 0)
        #expect(serial.takeOutput(maximum: 10) == [0x41])
    }
}
