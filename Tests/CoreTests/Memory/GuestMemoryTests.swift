import Core
import TestSupport
import Testing

@Suite("Guest memory")
struct GuestMemoryTests {
    /// Two adjoining regions, a gap, and the last page of all addresses.
    private let scratch: ScratchMemory
    private var memory: GuestMemory { scratch.memory }
    private static let top: UInt64 = 0 &- 0x1000

    init() throws {
        scratch = try ScratchMemory([
            (start: 0x2000, size: 0x1000), (start: 0x1000, size: 0x1000),
            (start: 0x4000, size: 0x1000), (start: Self.top, size: 0x1000),
        ])
    }

    @Test("sorts its regions")
    func regions() {
        #expect(memory.regions.map(\.start.rawValue) == [0x1000, 0x2000, 0x4000, Self.top])
    }

    @Test(
        "reads back what was written, at any alignment and across regions",
        arguments: [0x1000, 0x1003, 0x1ff8, 0x1ffc, 0x1fff, 0x2ff8, 0x4000, 0 &- 8] as [UInt64])
    func roundTrip(address: UInt64) throws {
        try memory.write(GuestAddress(address), 0x8877_6655_4433_2211 as UInt64)
        #expect(try memory.read(GuestAddress(address), as: UInt64.self) == 0x8877_6655_4433_2211)
        #expect(
            try memory.readBytes(GuestAddress(address), count: 8)
                == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88])
    }

    @Test(
        "refuses what is not all there",
        arguments: [
            0, 0xff8 + 1, 0xfff, 0x2ff9, 0x2fff, 0x3000, 0x3ff9, 0x4ff9, 0x5000, 0 &- 7, 0 &- 1,
            Self.top - 1, 1 << 63,
        ] as [UInt64])
    func outside(address: UInt64) {
        let error = GuestMemoryError.outOfRange(GuestAddress(address), count: 8)
        #expect(throws: error) { try memory.read(GuestAddress(address), as: UInt64.self) }
        #expect(throws: error) { try memory.write(GuestAddress(address), 0 as UInt64) }
        #expect(throws: error) { try memory.check(GuestAddress(address), count: 8) }
        #expect(throws: error) { try memory.readBytes(GuestAddress(address), count: 8) }
    }

    @Test("writes nothing if not everything can be written")
    func noPartialWrite() throws {
        #expect(throws: GuestMemoryError.self) {
            try memory.write(GuestAddress(0x2ffc), [1, 2, 3, 4, 5, 6, 7, 8])
        }
        #expect(try memory.read(GuestAddress(0x2ffc), as: UInt32.self) == 0)
    }

    @Test(
        "checks huge counts without overflow",
        arguments: [0x1000, 0x2000, 0x4000, Self.top, UInt64.max] as [UInt64])
    func hugeCount(address: UInt64) {
        for count in [UInt64.max, UInt64.max - address, 1 << 63] {
            #expect(throws: GuestMemoryError.self) {
                try memory.check(GuestAddress(address), count: max(count, 0x3000))
            }
        }
    }

    @Test("pieces follow the regions")
    func pieces() throws {
        var seen: [[UInt64]] = []
        // SAFETY: the pieces are only counted.
        try unsafe memory.forEachPiece(GuestAddress(0x1800), count: 0x1000) {
            region, offset, bytes in
            seen.append([region.start.rawValue, offset, UInt64(bytes.count)])
        }
        #expect(seen == [[0x1000, 0x800, 0x800], [0x2000, 0, 0x800]])
    }

    @Test("nothing is always there")
    func empty() throws {
        try memory.check(GuestAddress(0), count: 0)
        #expect(try memory.readBytes(GuestAddress(0), count: 0) == [])
    }

    @Test("regions must not overlap")
    func overlap() {
        #expect(throws: GuestMemoryError.overlap(GuestAddress(0x1000))) {
            try ScratchMemory([(start: 0, size: 0x2000), (start: 0x1000, size: 0x1000)])
        }
    }

    @Test(
        "a region must fit its mapping and the address space",
        arguments: [
            (0, 0, 0), (0, 0x2001, 0), (0, 0x2000, 1), (0, 1, 0x2000), (0, 1, UInt64.max),
            (UInt64.max, 2, 0), (0, UInt64.max, 1),
        ] as [(UInt64, UInt64, UInt64)])
    func badRegion(start: UInt64, size: UInt64, offset: UInt64) throws {
        let mapping = try MemoryMapping(anonymous: 0x2000)
        #expect(
            GuestRegion(
                start: GuestAddress(start), size: size, mapping: mapping, mappingOffset: offset)
                == nil)
    }
}

@Suite("A dirty log")
struct DirtyLogTests {
    private func marked(_ log: DirtyLog) -> [UInt64] {
        (0..<64).filter { log.isMarked(page: $0) }
    }

    @Test(
        "marks every page that is touched",
        arguments: [
            (0, 0, []), (0, 1, [0]), (0xfff, 1, [0]), (0xfff, 2, [0, 1]), (0x1000, 0x1000, [1]),
            (0x800, 0x2000, [0, 1, 2]), (0x7000, 0x2000, [7, 8]),
        ] as [(UInt64, UInt64, [UInt64])])
    func pages(address: UInt64, count: UInt64, pages: [UInt64]) throws {
        let log = DirtyLog(try MemoryMapping(anonymous: 8))
        log.mark(GuestAddress(address), count: count)
        #expect(marked(log) == pages)
    }

    @Test(
        "ignores what it does not cover",
        arguments: [(64 << 12, 1), (UInt64.max, 1), (UInt64.max, UInt64.max), (1 << 63, 4096)]
            as [(UInt64, UInt64)])
    func beyond(address: UInt64, count: UInt64) throws {
        let log = DirtyLog(try MemoryMapping(anonymous: 8))
        log.mark(GuestAddress(address), count: count)
        #expect(marked(log) == [])
        #expect(!log.isMarked(page: UInt64.max))
    }

    @Test("marks up to its end")
    func toTheEnd() throws {
        let log = DirtyLog(try MemoryMapping(anonymous: 8))
        log.mark(GuestAddress(62 << 12), count: UInt64.max)
        #expect(marked(log) == [62, 63])
    }

    @Test("knows which memory it covers")
    func covers() throws {
        let log = DirtyLog(try MemoryMapping(anonymous: 8))
        #expect(log.covers(try ScratchMemory([(start: 0, size: 64 << 12)]).memory))
        #expect(!log.covers(try ScratchMemory([(start: 0x1000, size: 64 << 12)]).memory))
    }
}
