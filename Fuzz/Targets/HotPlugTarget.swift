import Accelerator
import Core
import DeviceFakes
@testable import Devices
import TestSupport

/// A root port and its card, which come and go while a guest writes to both.
struct HotPlugTarget: FuzzTarget {
    static let name = "hot-plug"
    static let about = "a PCI Express port and the card in its slot, which comes and goes"

    private static let window: UInt64 = 0xC000_0000
    private static let ecam: UInt64 = 0xE000_0000
    private static let portConfig = ecam + 0x8000
    private static let cardConfig = ecam + 0x10_0000

    /// Slot control and status, and the port's window.
    static let seeds: [[UInt8]] = [
        FuzzSeed.make { seed in
            for (register, value) in [
                (0x58, 0x1029), (0x58, 0x0400), (0x5A, 0x109), (0x20, 0xC010),
            ]
                as [(Int, UInt64)]
            {
                seed.choose(7, of: 8)
                RegisterAttack.putWrite(&seed, range: (0, 4, 0x100), register, sizeShift: 1, value)
                seed.choose(0, of: 8)
            }
        }
    ]

    /// The machine's side.
    private struct Slot {
        let bus: PCIBus
        let port: PCIRootPort
        let place: Int
        let function: VirtioPCI
        var isThere = false

        mutating func toggle(isProgrammed: Bool) throws {
            if isThere {
                bus.remove(.behind(place))
            } else {
                try bus.add(function, behind: place, isProgrammed: isProgrammed)
            }
            isThere.toggle()
            port.setPresent(isThere)
        }
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let memory = Bus()
        let machine = FakeMachine(canBind: input.flag())
        let bus = PCIBus(
            memory: memory, windows: [PCIWindow(start: Self.window, size: 0x100_0000)])
        let control = InlineControlPlane()
        try bus.add(PCIHostBridge())
        var made: PCIRootPort?
        let place = try bus.addPort { window in
            let port = PCIRootPort(number: 1, window: window, machine: machine) {}
            made = port
            return port
        }
        guard let port = made else { return false }
        let function = try VirtioPCI(
            RecordingDevice(queueCount: 2), memory: try ScratchMemory(size: 1 << 16).memory,
            machine: machine, control: control, isExpress: true)
        let access = memory.attach(PCIECAM(bus), start: Self.ecam, length: 1 << 24)
        var slot = Slot(bus: bus, port: port, place: place, function: function)
        defer {
            // The buses hold each other.
            if slot.isThere { bus.remove(.behind(place)) }
            for device in 0...place { bus.remove(.device(device)) }
            if let access { memory.detach(access) }
            memory.reclaim()
        }
        let attack = RegisterAttack(
            ranges: [
                (Self.portConfig, 0x100), (Self.portConfig + 0x40, 0x40), (Self.cardConfig, 0x100),
                (Self.ecam, 1 << 22), (Self.window, 0x40_0000),
            ],
            read: { memory.read($0, size: $1) }, write: { memory.write($0, size: $1, $2) })
        while !input.isEmpty {
            switch input.below(8) {
            case 0: try slot.toggle(isProgrammed: false)
            case 1: port.pressAttentionButton()
            case 2 where input.rarely(4): bus.reset()
            default: try attack.access(&input)
            }
            control.poll()
        }
        try checkRecovery(&slot, memory)
        return true
    }

    /// After a reset a card is where it was at first.
    private func checkRecovery(_ slot: inout Slot, _ memory: Bus) throws {
        if !slot.isThere { try slot.toggle(isProgrammed: false) }
        slot.function.reset()
        slot.bus.reset()
        let port = memory.read(Self.portConfig, size: 4)
        try require(port == 0x000C_1B36, "the port's identity is \(port)")
        let card = memory.read(Self.cardConfig, size: 4)
        try require(card == 0x1042_1AF4, "the card's identity is \(card)")
        let start = memory.read(Self.cardConfig + 0x10, size: 4) & ~0xF
        let queues = memory.read(start + 0x12, size: 2)
        try require(queues == 2, "the card's registers give \(queues)")
    }
}
