import Accelerator
import Core
@testable import Devices
import Testing

/// A small generator with a seed (SplitMix64), so that a failure can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

@Suite("Hostile register accesses")
struct RegisterFuzzTests {
    static let interesting: [UInt64] = [0, 1, 2, 3, 8, 11, 15, 0x80, 0xFF, 0x8000, 0xFFFF, .max]

    /// Random accesses of all sizes to `starts`' neighbourhoods. Surviving is passing.
    static func attack(
        seed: UInt64, rounds: Int, ranges: [(start: UInt64, length: UInt64)],
        read: (UInt64, Int) -> UInt64, write: (UInt64, Int, UInt64) -> MachineEffect
    ) {
        var random = SeededGenerator(state: seed)
        for _ in 0..<rounds {
            let range = ranges[Int.random(in: 0..<ranges.count, using: &random)]
            // Mostly aligned, sometimes past the end.
            var offset = UInt64.random(in: 0..<range.length + 8, using: &random)
            if Bool.random(using: &random) { offset &= ~3 }
            let size = [1, 2, 4, 8][Int.random(in: 0..<4, using: &random)]
            let address = range.start &+ offset
            if UInt8.random(in: 0..<3, using: &random) == 0 {
                _ = read(address, size)
                continue
            }
            let value =
                Bool.random(using: &random)
                ? interesting.randomElement(using: &random) ?? 0 : random.next()
            _ = write(address, size, value)
        }
    }

    @Test("virtio, MSI-X and PCI survive", arguments: 1...8 as ClosedRange<UInt64>)
    func virtio(seed: UInt64) throws {
        let bench = try VirtioBench(canBind: seed % 2 == 0)
        bench.memory.attach(PCIECAM(bench.bus), start: 0xE000_0000, length: 1 << 20)
        Self.attack(
            seed: seed, rounds: 20_000,
            ranges: [
                (0xC000_0000, 64), (0xC000_1000, 4), (0xC000_2000, 32), (0xC000_3000, 16),
                (0xC000_4000, 64), (0xC000_5000, 8), (0xE000_0000, 256), (0xC000_0000, 0x8000),
            ],
            read: { bench.memory.read($0, size: $1) },
            write: { address, size, value in
                // The BAR and its decoding stay, so that the accesses hit something.
                let isBAR = address >= 0xE000_0000 && address < 0xE000_0020 && seed % 4 != 0
                let effect = isBAR ? .none : bench.memory.write(address, size: size, value)
                bench.control.poll()
                return effect
            })
        bench.bus.reset()
        try bench.start()
        #expect(bench.status == 15)
    }

    @Test("the ports and the I/O APIC survive", arguments: 1...4 as ClosedRange<UInt64>)
    func ports(seed: UInt64) throws {
        let machine = FakeMachine()
        let buses = MachineBuses()
        let ioapic = IOAPIC(machine: machine)
        buses.connect(ioapic)
        buses.memory.attach(ioapic, start: 0xFEC0_0000, length: IOAPIC.size)
        let pci = PCIBus(memory: buses.memory, windows: [])
        try pci.add(PCIHostBridge())
        let serial = Serial(line: InterruptLine(ioapic, pin: 4), events: .init())
        buses.ports.attach(serial, start: 0x3F8, length: Serial.size)
        buses.ports.attach(PCIConfigPorts(pci), start: 0xCF8, length: PCIConfigPorts.size)
        buses.ports.attach(SleepRegisters(), start: 0x600, length: SleepRegisters.size)
        buses.ports.attach(PanicNotifier(), start: 0x505, length: PanicNotifier.size)
        buses.ports.attach(PortSink(), start: 0x80, length: 1)
        Self.attack(
            seed: seed, rounds: 50_000,
            ranges: [(0x3F8, 8), (0xCF8, 8), (0x600, 2), (0x505, 1), (0x80, 1)],
            read: { UInt64(buses.readPort(UInt16(truncatingIfNeeded: $0), size: min($1, 4))) },
            write: { address, size, value in
                _ = serial.receive([UInt8(truncatingIfNeeded: value)])
                _ = serial.takeOutput(maximum: Int(value & 63))
                buses.endOfInterrupt(vector: UInt8(truncatingIfNeeded: value))
                return buses.writePort(
                    UInt16(truncatingIfNeeded: address), size: min(size, 4),
                    UInt32(truncatingIfNeeded: value))
            })
        Self.attack(
            seed: seed, rounds: 20_000, ranges: [(0xFEC0_0000, 0x50)],
            read: { buses.readMMIO(GuestAddress($0), size: $1) },
            write: { buses.writeMMIO(GuestAddress($0), size: $1, $2) })
    }
}
