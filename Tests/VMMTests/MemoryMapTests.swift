import Testing

@testable import VMM

@Suite("Memory map")
struct MemoryMapTests {
    @Test(
        "memory is split at 3 GiB",
        arguments: [
            (256 << 20, 256 << 20, nil), (3 << 30, 3 << 30, nil), (4 << 30, 3 << 30, 1 << 30),
        ] as [(UInt64, UInt64, UInt64?)])
    func split(size: UInt64, low: UInt64, high: UInt64?) {
        let map = MemoryMap(memorySize: size)
        #expect(map.lowRAM == .init(start: 0, size: low))
        #expect(map.highRAM?.start == high.map { _ in 4 << 30 })
        #expect(map.highRAM?.size == high)
    }

    @Test(
        "ranges neither overlap nor lose memory",
        arguments: [
            16 << 20, 64 << 20, 3 << 30, (3 << 30) + 0x1000, 64 << 30, 8 << 40,
        ] as [UInt64])
    func disjoint(size: UInt64) {
        let map = MemoryMap(memorySize: size)
        let ranges =
            map.entries.map(\.range) + [MemoryMap.pci32, MemoryMap.ioapic, MemoryMap.localAPIC]
            + [map.pci64]
        let sorted = ranges.sorted { $0.start < $1.start }
        for (lower, upper) in zip(sorted, sorted.dropFirst()) {
            #expect(lower.end <= upper.start)
        }
        // All RAM but what lies between conventional memory and 1 MiB is offered.
        let offered = map.entries.filter { $0.kind == .ram }.reduce(0) { $0 + $1.range.size }
        #expect(offered == size - (MemoryMap.oneMiB - MemoryMap.conventionalEnd))
        #expect(map.pci64.start % map.pci64.size == 0)
    }
}
