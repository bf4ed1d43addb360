import Accelerator
import Core
import DeviceFakes
@testable import Devices
import Synchronization
import TestSupport
import Testing

/// What the driver of a root port sees and does (Linux's pciehp).
@Suite("Hot-plug")
struct HotPlugTests {
    private enum Register {
        static let buses: UInt64 = 0x18
        static let memoryWindow: UInt64 = 0x20
        static let bridgeControl: UInt64 = 0x3E
        static let linkControl: UInt64 = 0x50
        static let linkStatus: UInt64 = 0x52
        static let slotCapabilities: UInt64 = 0x54
        static let slotControl: UInt64 = 0x58
        static let slotStatus: UInt64 = 0x5A
        static let msi: UInt64 = 0x7C
    }
    private static let message = MSIMessage(address: 0xFEE0_1000, data: 0x41)
    /// Interrupts for the button, presence and the link; both indicators off, power on.
    private static let listening: UInt16 = 0x1029 | 0x03C0

    let memory = Bus()
    let machine = FakeMachine()
    let bus: PCIBus
    let port: PCIRootPort
    let place: Int
    /// The port's configuration space, and what is behind it.
    let config: RegisterWindow
    let card: RegisterWindow
    let powerOffs = Counter()
    let function: VirtioPCI
    let device = RecordingDevice()

    final class Counter: Sendable {
        private let value = Atomic(0)
        var count: Int { value.load(ordering: .relaxed) }
        func add() { value.add(1, ordering: .relaxed) }
    }

    init() throws {
        let bus = PCIBus(
            memory: memory, windows: [PCIWindow(start: 0xC000_0000, size: 0x100_0000)])
        self.bus = bus
        try bus.add(PCIHostBridge())
        var made: PCIRootPort?
        let (machine, powerOffs) = (machine, powerOffs)
        place = try bus.addPort { window in
            let port = PCIRootPort(number: 1, window: window, machine: machine) { powerOffs.add() }
            made = port
            return port
        }
        port = try #require(made)
        config = RegisterWindow(PCITests.Offset(base: UInt64(place) << 15, of: PCIECAM(bus)))
        card = RegisterWindow(PCITests.Offset(base: 1 << 20, of: PCIECAM(bus)))
        function = try VirtioPCI(
            device, memory: ScratchMemory([(start: 0, size: 1 << 16)]).memory, machine: machine,
            control: InlineControlPlane(), isExpress: true)
    }

    private func plug() throws {
        try bus.add(function, behind: place, isProgrammed: false)
        port.setPresent(true)
    }

    private func listen() {
        config.write32(Register.msi + 4, UInt32(Self.message.address))
        config.write16(Register.msi + 12, UInt16(Self.message.data))
        config.write16(Register.msi + 2, 1)
        config.write16(Register.slotStatus, 0xFFFF)
        config.write16(Register.slotControl, Self.listening)
        _ = machine.takeMessages()
    }

    @Test("a port is a bridge with a slot that can do what it says")
    func identity() {
        #expect(config.read32(0) == 0x000C_1B36)
        #expect(config.read8(0x0E) == 1)
        #expect(config.read32(Register.buses) == 0x0001_0100)
        #expect(config.read32(Register.memoryWindow) == 0xC010_C000)
        #expect(config.read8(0x40) == 0x10)
        #expect(config.read32(Register.slotCapabilities) == 0x000C_005B)
        // Without a card: no power, no presence, no link.
        #expect(config.read16(Register.slotStatus) == 0)
        #expect(config.read16(Register.slotControl) & 0x0400 != 0)
        #expect(config.read16(Register.linkStatus) == 0x0011)
        #expect(card.read32(0) == 0xFFFF_FFFF)
    }

    @Test("a card interrupts, and is seen when it has power")
    func arrival() throws {
        listen()
        config.write16(Register.slotControl, Self.listening | 0x0400)
        try plug()
        #expect(machine.takeMessages() == [Self.message])
        #expect(config.read16(Register.slotStatus) == 0x0049)
        #expect(card.read32(0) == 0xFFFF_FFFF)
        config.write16(Register.slotStatus, 0x0009)
        config.write16(Register.slotControl, Self.listening)
        #expect(card.read32(0) == 0x1042_1AF4)
        #expect(config.read16(Register.linkStatus) & 0x2000 != 0)
        // The link is news as well; no second interrupt before the first has been looked at.
        #expect(machine.takeMessages() == [Self.message])
        config.write16(Register.slotStatus, 0x0100)
        #expect(config.read16(Register.slotStatus) == 0x0040)
        // Only device 0 is there.
        #expect(RegisterWindow(PCIECAM(bus)).read32(1 << 20 | 1 << 15) == 0xFFFF_FFFF)
    }

    @Test("a card's addresses are reached through the port's window only")
    func window() throws {
        try plug()
        config.write16(Register.slotControl, 0)
        let start = UInt64(config.read16(Register.memoryWindow) & 0xFFF0) << 16
        card.write32(0x10, UInt32(start))
        card.write32(0x14, 0)
        card.write16(4, 2)
        // The number of queues of the common configuration.
        #expect(memory.read(start + 0x12, size: 2) == UInt64(device.queueCount))
        config.write16(4, 0)
        #expect(memory.read(start + 0x12, size: 2) == 0xFFFF)
        config.write16(4, 6)
        #expect(memory.read(start + 0x12, size: 2) == UInt64(device.queueCount))
        config.write32(Register.memoryWindow, 0x0000_FFF0)
        #expect(memory.read(start + 0x12, size: 2) == 0xFFFF)
    }

    @Test("the button asks, power off answers, and the card has forgotten everything")
    func departure() throws {
        port.setInitiallyPresent()
        try bus.add(function, behind: place, isProgrammed: true)
        #expect(config.read16(Register.slotStatus) == 0x0040)
        #expect(config.read16(Register.slotControl) == 0x0100)
        let start = UInt64(config.read16(Register.memoryWindow) & 0xFFF0) << 16
        #expect(memory.read(start + 0x12, size: 2) == UInt64(device.queueCount))
        listen()
        port.pressAttentionButton()
        #expect(machine.takeMessages() == [Self.message])
        #expect(config.read16(Register.slotStatus) == 0x0041)
        config.write16(Register.slotStatus, 0x0001)
        _ = device.takeCalls()
        config.write16(Register.slotControl, Self.listening | 0x0400)
        #expect(powerOffs.count == 1)
        #expect(device.takeCalls().contains(.reset))
        #expect(card.read32(0) == 0xFFFF_FFFF)
        #expect(memory.read(start + 0x12, size: 2) == 0xFFFF)
        bus.remove(.behind(place))
        port.setPresent(false)
        // Power that is on is of no use to an empty slot, and the next card begins anew.
        config.write16(Register.slotControl, Self.listening)
        #expect(card.read32(0) == 0xFFFF_FFFF)
        try plug()
        #expect(card.read16(0) == 0x1AF4)
        #expect(card.read16(4) == 0)
        #expect(powerOffs.count == 1)
    }

    @Test("a reset of the bus behind, or a link that is off, takes the card along")
    func secondaryReset() throws {
        port.setInitiallyPresent()
        try bus.add(function, behind: place, isProgrammed: true)
        card.write16(4, 6)
        _ = device.takeCalls()
        config.write16(Register.bridgeControl, 0x0040)
        config.write16(Register.bridgeControl, 0)
        #expect(device.takeCalls() == [.reset])
        #expect(card.read16(4) == 0)
        config.write16(Register.linkControl, 0x0010)
        #expect(card.read32(0) == 0xFFFF_FFFF)
        config.write16(Register.linkControl, 0)
        #expect(card.read16(0) == 0x1AF4)
    }

    @Test("the machine's reset gives a card that is there power and its first addresses")
    func machineReset() throws {
        try plug()
        config.write32(Register.buses, 0)
        config.write32(Register.memoryWindow, 0)
        bus.reset()
        #expect(config.read32(Register.buses) == 0x0001_0100)
        #expect(card.read16(0) == 0x1AF4)
        #expect(card.read16(4) & 2 != 0)
        let start = UInt64(config.read16(Register.memoryWindow) & 0xFFF0) << 16
        #expect(memory.read(start + 0x12, size: 2) == UInt64(device.queueCount))
    }

    @Test("ports and other functions have addresses of their own, and all run out")
    func exhaustion() throws {
        var windows: [UInt64] = [UInt64(config.read16(Register.memoryWindow)) << 16]
        // 16 MiB are 8 windows.
        for number in 2...8 as ClosedRange<UInt8> {
            let machine = machine
            let device = try bus.addPort {
                windows.append($0.start)
                return PCIRootPort(number: number, window: $0, machine: machine) {}
            }
            #expect(device == Int(number))
        }
        #expect(Set(windows).count == 8)
        #expect(throws: PCIError.self) {
            try bus.addPort { PCIRootPort(number: 9, window: $0, machine: machine) {} }
        }
    }
}
