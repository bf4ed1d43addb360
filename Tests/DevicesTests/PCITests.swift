import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Testing

/// A function with a 4 KiB BAR of 32 bits and a 64 KiB BAR of 64 bits, whose bytes read as the
/// BAR's number.
private final class TwoBARs: PCIFunction {
    let config: LockedConfigSpace

    init() {
        var space = PCIConfigSpace(
            .init(
                vendor: 0x1234, device: 0x5678, revision: 9, classCode: 0x12_3456,
                subsystemVendor: 0xABCD, subsystem: 0xEF01))
        space.addMemoryBAR(1, size: 0x1000, is64Bit: false)
        space.addMemoryBAR(2, size: 0x1_0000, is64Bit: true)
        config = LockedConfigSpace(space)
    }

    func readConfig(_ offset: Int, size: Int) -> UInt32 { config.read(offset, size: size) }

    func writeConfig(_ offset: Int, size: Int, _ value: UInt32) -> MachineEffect {
        config.write(offset, size: size, value)
        return .none
    }

    var placements: [PCIBARPlacement] { config.placements }
    func setBAR(_ bar: Int, address: UInt64) { config.setBAR(bar, address: address) }
    func barMoved(_ bar: Int, to address: UInt64?) {}
    func readBAR(_ bar: Int, offset: UInt64, size: Int) -> UInt64 { UInt64(bar) << 4 | offset }
    func writeBAR(_ bar: Int, offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect { .none }
    func resetConfig() { config.reset() }
    func resetAll() { config.reset() }
}

@Suite("PCI")
struct PCITests {
    let memory = Bus()
    let bus: PCIBus
    let ecam: RegisterWindow
    let ports: RegisterWindow
    /// Device 1's configuration space.
    let config: RegisterWindow

    init() throws {
        bus = PCIBus(
            memory: memory,
            windows: [
                PCIWindow(start: 0xC000_0000, size: 0x40_0000),
                PCIWindow(start: 0x1_0000_0000, size: 0x10_0000),
            ])
        try bus.add(PCIHostBridge())
        try bus.add(TwoBARs())
        let ecam = RegisterWindow(PCIECAM(bus))
        self.ecam = ecam
        config = RegisterWindow(Offset(base: 1 << 15, of: PCIECAM(bus)))
        ports = RegisterWindow(PCIConfigPorts(bus))
    }

    /// A part of a device's range.
    final class Offset: BusDevice {
        let base: UInt64
        let device: any BusDevice

        init(base: UInt64, of device: any BusDevice) {
            self.base = base
            self.device = device
        }

        func read(offset: UInt64, size: Int) -> UInt64 {
            device.read(offset: base + offset, size: size)
        }

        func write(offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
            device.write(offset: base + offset, size: size, value)
        }
    }

    @Test("both mechanisms show the same bytes, in all sizes")
    func mechanisms() {
        for register in stride(from: 0, to: 256, by: 4) as StrideTo<UInt64> {
            ports.write32(0, 0x8000_0800 | UInt32(register))
            let word = config.read32(register)
            #expect(ports.read32(4) == word)
            #expect(ports.read16(6) == UInt16(word >> 16))
            #expect(config.read16(register + 2) == UInt16(word >> 16))
            #expect(ports.read8(5) == UInt8(truncatingIfNeeded: word >> 8))
            #expect(config.read8(register + 1) == UInt8(truncatingIfNeeded: word >> 8))
        }
        #expect(config.readBytes(0, 8) == UInt64(config.read32(4)) << 32 | 0x5678_1234)
        #expect(ports.read32(0) == 0x8000_08FC)
    }

    @Test("functions that do not exist read all ones")
    func absent() {
        #expect(ecam.read32(2 << 15) == 0xFFFF_FFFF)
        #expect(ecam.read16(1 << 12) == 0xFFFF)
        #expect(ecam.read32(1 << 20) == 0xFFFF_FFFF)
        ports.write32(0, 0x0000_0800)
        #expect(ports.read32(4) == 0xFFFF_FFFF)
    }

    @Test("identity cannot be written, and extended space is empty")
    func readOnly() {
        for register in stride(from: 0, to: 0x10, by: 4) as StrideTo<UInt64> where register != 4 {
            config.write32(register, 0xFFFF_FFFF)
        }
        #expect(config.read32(0) == 0x5678_1234)
        #expect(config.read32(8) == 0x1234_5609)
        #expect(config.read32(0x0C) == 0x0000_00FF)
        #expect(config.read32(0x2C) == 0xEF01_ABCD)
        #expect(config.read32(0x100) == 0)
    }

    @Test("BARs are in place from the start and tell their sizes")
    func sizing() {
        #expect(config.read32(0x14) == 0xC000_0000)
        #expect(config.read32(0x18) == 0xC001_0004)
        #expect(config.read32(0x1C) == 0)
        #expect(memory.read(0xC000_0008, size: 4) == 0x18)
        #expect(memory.read(0xC001_0008, size: 4) == 0x28)
        config.write16(4, 0)
        for register in [0x14, 0x18, 0x1C] as [UInt64] { config.write32(register, 0xFFFF_FFFF) }
        #expect(config.read32(0x14) == 0xFFFF_F000)
        #expect(config.read32(0x18) == 0xFFFF_0004)
        #expect(config.read32(0x1C) == 0xFFFF_FFFF)
        #expect(config.read32(0x10) == 0)
        #expect(config.read32(0x20) == 0)
    }

    @Test("a BAR is reachable only while memory decoding is on")
    func decoding() {
        config.write16(4, 0)
        #expect(memory.read(0xC000_0008, size: 4) == 0xFFFF_FFFF)
        config.write8(4, 2)
        #expect(memory.read(0xC000_0008, size: 4) == 0x18)
    }

    @Test("the guest moves a BAR, also above 4 GiB")
    func moving() {
        config.write32(0x14, 0xC008_0000)
        #expect(memory.read(0xC000_0008, size: 4) == 0xFFFF_FFFF)
        #expect(memory.read(0xC008_0008, size: 4) == 0x18)
        config.write32(0x18, 0x0004_0000)
        config.write32(0x1C, 1)
        #expect(memory.read(0x1_0004_0008, size: 4) == 0x28)
        #expect(memory.read(0xC001_0008, size: 4) == 0xFFFF_FFFF)
    }

    @Test("a BAR outside the windows or over another one is unreachable until it moves")
    func misplacement() {
        memory.attach(PanicNotifier(), start: 0xFEC0_0000, length: 0x1000)
        config.write32(0x14, 0xFEC0_0000)
        #expect(memory.read(0xFEC0_0000, size: 1) == 3)
        config.write32(0x14, 0xC001_0000)
        #expect(memory.read(0xC001_0008, size: 4) == 0x28)
        config.write32(0x1C, 1)
        config.write32(0x18, 0)
        #expect(memory.read(0xC001_0008, size: 4) == 0x18)
        #expect(memory.read(0x1_0000_0008, size: 4) == 0x28)
    }

    @Test("a reset puts BARs back")
    func reset() {
        config.write32(0x14, 0xC008_0000)
        config.write16(4, 0)
        bus.reset()
        #expect(config.read32(0x14) == 0xC000_0000)
        #expect(memory.read(0xC000_0008, size: 4) == 0x18)
    }

    @Test("a removed function's place and addresses are free again")
    func removal() throws {
        bus.remove(.device(1))
        #expect(config.read32(0) == 0xFFFF_FFFF)
        #expect(memory.read(0xC000_0008, size: 4) == 0xFFFF_FFFF)
        #expect(try bus.add(TwoBARs()) == 1)
        #expect(memory.read(0xC000_0008, size: 4) == 0x18)
    }

    @Test("functions get addresses until the windows are full")
    func exhaustion() throws {
        for _ in 0..<30 { try bus.add(TwoBARs()) }
        #expect(throws: PCIError.self) { try bus.add(TwoBARs()) }
        #expect(throws: PCIError.self) { try bus.add(PCIHostBridge(), device: 0) }
        let small = PCIBus(
            memory: Bus(), windows: [PCIWindow(start: 0xC000_0000, size: 0x1_0000)])
        #expect(throws: PCIError.self) { try small.add(TwoBARs()) }
    }
}

@Suite("MSI-X table")
struct MSIXTableTests {
    let machine = FakeMachine()
    let table: MSIXTable

    init() {
        table = MSIXTable(vectorCount: 70, machine: machine)
        for vector in [0, 69] as [UInt64] {
            table.writeTable(offset: vector * 16, size: 8, 0xFEE0_1000)
            table.writeTable(offset: vector * 16 + 8, size: 4, 0x40 + vector)
        }
    }

    func setMask(_ vector: UInt64, _ isMasked: Bool) {
        table.writeTable(offset: vector * 16 + 12, size: 4, isMasked ? 1 : 0)
    }

    @Test("a vector starts masked, and its fields read back")
    func fields() {
        #expect(table.readTable(offset: 0, size: 4) == 0xFEE0_1000)
        #expect(table.readTable(offset: 8, size: 8) == 0x1_0000_0040)
        #expect(table.readTable(offset: 12, size: 4) == 1)
        #expect(table.readTable(offset: 70 * 16, size: 4) == 0)
        table.writeTable(offset: 4, size: 4, 0xFFFF_FFFF)
        table.writeTable(offset: 0, size: 4, 0xFFFF_FFFF)
        #expect(table.readTable(offset: 0, size: 8) == 0xFFFF_FFFF_FFFF_FFFC)
        table.writeTable(offset: 2, size: 4, 0)
        table.writeTable(offset: 8, size: 2, 0)
        table.writeTable(offset: 70 * 16, size: 4, 0)
        #expect(table.readTable(offset: 8, size: 4) == 0x40)
    }

    @Test("nothing is sent while MSI-X is off")
    func disabled() {
        setMask(0, false)
        table.trigger(0)
        table.setControl(MSIXTable.enable)
        #expect(machine.takeMessages().isEmpty)
        table.trigger(0)
        #expect(machine.takeMessages() == [MSIMessage(address: 0xFEE0_1000, data: 0x40)])
    }

    @Test("a message to no CPU is nobody's", arguments: [0, 0x1000, 0x1_FEE0_0000, 0xFEF0_0000])
    func strangeAddress(address: UInt64) {
        setMask(0, false)
        table.setControl(MSIXTable.enable)
        table.writeTable(offset: 0, size: 8, address)
        table.trigger(0)
        #expect(machine.takeMessages().isEmpty)
    }

    @Test("a masked vector is pending, and sent once when it is unmasked")
    func vectorMask() {
        table.setControl(MSIXTable.enable)
        table.trigger(69)
        table.trigger(69)
        #expect(table.readPending(offset: 8, size: 8) == 1 << 5)
        #expect(table.readPending(offset: 0, size: 8) == 0)
        #expect(machine.takeMessages().isEmpty)
        setMask(69, false)
        #expect(machine.takeVectors() == [0x85])
        #expect(table.readPending(offset: 8, size: 8) == 0)
        setMask(69, true)
        setMask(69, false)
        #expect(machine.takeMessages().isEmpty)
    }

    @Test("the function mask holds all vectors back")
    func functionMask() {
        setMask(0, false)
        table.setControl(MSIXTable.enable | MSIXTable.functionMask)
        table.trigger(0)
        table.trigger(69)
        #expect(machine.takeMessages().isEmpty)
        table.setControl(MSIXTable.enable)
        #expect(machine.takeVectors() == [0x40])
        #expect(table.message(0) == MSIMessage(address: 0xFEE0_1000, data: 0x40))
        #expect(table.message(69) == nil)
        #expect(table.message(70) == nil)
        #expect(table.message(-1) == nil)
    }
}
