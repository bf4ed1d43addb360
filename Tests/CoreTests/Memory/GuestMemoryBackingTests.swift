import CLinux
import Core
import Glibc
import Testing

@Suite("Guest memory backing")
struct GuestMemoryBackingTests {
    private static func window(_ start: UInt64, _ size: UInt64) -> GuestMemoryWindow {
        GuestMemoryWindow(start: GuestAddress(start), size: size)
    }

    /// How many pages of the file have memory behind them.
    private static func residentPages(_ backing: GuestMemoryBacking) -> Int {
        var info = stat()
        // SAFETY: `info` lives for the call.
        unsafe _ = fstat(backing.file.rawValue, &info)
        return Int(info.st_blocks) * 512 / 4096
    }

    @Test("puts the windows one after the other into one file")
    func layout() throws {
        let backing = try GuestMemoryBacking([
            Self.window(0x1_0000_0000, 0x8000), Self.window(0, 0x4000),
        ])
        #expect(backing.size == 0xc000)
        let regions = backing.memory.regions
        #expect(regions.map(\.start.rawValue) == [0, 0x1_0000_0000])
        #expect(regions.map(\.size) == [0x4000, 0x8000])
        #expect(regions.map(\.fileOffset) == [0, 0x4000])
        for region in regions { #expect(region.file === backing.file) }
    }

    @Test("another mapping of the file sees what the guest writes")
    func shared() throws {
        let backing = try GuestMemoryBacking([Self.window(0x1000, 0x4000)])
        try backing.memory.write(GuestAddress(0x2345), 0x1122_3344 as UInt32)
        let other = try MemoryMapping(sharing: backing.file.rawValue, size: 0x4000)
        // SAFETY: the offset lies in the mapping.
        let seen = unsafe (other.base + 0x1345).loadUnaligned(as: UInt32.self)
        #expect(seen == 0x1122_3344)
    }

    private static func load(
        _ bytes: [UInt8], _ memory: GuestMemory, _ address: UInt64
    ) throws(GuestMemoryError) {
        // SAFETY: the buffer is used only during the call.
        try unsafe bytes.span.withUnsafeBytes { buffer throws(GuestMemoryError) in
            try unsafe memory.load(GuestAddress(address), from: buffer)
        }
    }

    @Test("what is loaded is what other mappings see, across windows; nothing is, if not all fits")
    func loaded() throws {
        let backing = try GuestMemoryBacking([
            Self.window(0x1000, 0x4000), Self.window(0x5000, 0x4000),
        ])
        let bytes = (0..<0x5001).map { UInt8(truncatingIfNeeded: $0 * 7 + $0 >> 8) }
        try Self.load(bytes, backing.memory, 0x2FFF)
        #expect(try backing.memory.readBytes(GuestAddress(0x2FFF), count: bytes.count) == bytes)
        #expect(try backing.memory.read(GuestAddress(0x2FFE), as: UInt8.self) == 0)
        let other = try MemoryMapping(sharing: backing.file.rawValue, size: 0x8000)
        // SAFETY: the offset lies in the mapping.
        let seen = unsafe (other.base + 0x1FFF).loadUnaligned(as: UInt64.self)
        #expect(try seen == backing.memory.read(GuestAddress(0x2FFF), as: UInt64.self))
        #expect(throws: GuestMemoryError.self) {
            try Self.load(bytes, backing.memory, 0x4000)
        }
        #expect(try backing.memory.read(GuestAddress(0x8FFF), as: UInt8.self) == 0)
        // Memory without a file, which only this process has.
        let mapping = try MemoryMapping(anonymous: 0x8000)
        let region = try #require(
            GuestRegion(start: GuestAddress(0), size: 0x8000, mapping: mapping))
        let alone = try GuestMemory([region])
        try Self.load(bytes, alone, 0x123)
        #expect(try alone.readBytes(GuestAddress(0x123), count: bytes.count) == bytes)
    }

    @Test("takes no memory until it is touched")
    func lazy() throws {
        let backing = try GuestMemoryBacking([Self.window(0, 1 << 40)])
        #expect(Self.residentPages(backing) == 0)
    }

    @Test("takes all memory at once if asked to")
    func prefault() throws {
        let backing = try GuestMemoryBacking(
            [Self.window(0, 4 << 20)], options: GuestMemoryOptions(prefault: true))
        #expect(Self.residentPages(backing) == 1024)
        #expect(try backing.memory.read(GuestAddress(0x1234), as: UInt64.self) == 0)
    }

    @Test("nobody can shrink the file under the guest")
    func sealed() throws {
        let backing = try GuestMemoryBacking([Self.window(0, 0x4000)])
        #expect(ftruncate(backing.file.rawValue, 0) == -1)
    }

    @Test("needs some memory")
    func nothing() {
        #expect(throws: GuestMemoryBackingError.size(0)) { try GuestMemoryBacking([]) }
    }

    @Test(
        "refuses windows that are not whole pages",
        arguments: [(0, 0), (0, 100), (1, 4096), (4096, 4097), (0 &- 4096, 8192)]
            as [(UInt64, UInt64)])
    func misaligned(start: UInt64, size: UInt64) {
        let window = Self.window(start, size)
        #expect(throws: GuestMemoryBackingError.misalignedWindow(window, pageSize: 4096)) {
            try GuestMemoryBacking([window])
        }
    }

    @Test("refuses windows that overlap")
    func overlap() {
        #expect(throws: GuestMemoryBackingError.overlap(GuestAddress(0x3000))) {
            try GuestMemoryBacking([Self.window(0x3000, 0x1000), Self.window(0, 0x4000)])
        }
    }

    @Test("refuses more than the host can address")
    func tooLarge() {
        let half: UInt64 = 1 << 63 - 4096
        #expect(throws: GuestMemoryBackingError.self) {
            try GuestMemoryBacking([Self.window(0, half), Self.window(half, half)])
        }
    }

    @Test("says how many huge pages are missing", arguments: [GuestPageSize.huge2M, .huge1G])
    func hugePages(pageSize: GuestPageSize) {
        let bytes: UInt64 = pageSize == .huge2M ? 2 << 20 : 1 << 30
        // No host has that many.
        let error = #expect(throws: GuestMemoryBackingError.self) {
            try GuestMemoryBacking(
                [Self.window(0, bytes << 14)], options: GuestMemoryOptions(pageSize: pageSize))
        }
        let free = GuestMemoryBacking.freeHugePages(bytes >> 10)
        #expect(error == .noHugePages(needed: 1 << 14, free: free, pageSize: bytes))
    }

    @Test("windows are made of huge pages")
    func hugeWindows() {
        let window = Self.window(0, 0x1000)
        #expect(throws: GuestMemoryBackingError.misalignedWindow(window, pageSize: 2 << 20)) {
            try GuestMemoryBacking([window], options: GuestMemoryOptions(pageSize: .huge2M))
        }
    }

    @Test("a huge page can be used", .enabled(if: GuestMemoryBacking.freeHugePages(2048) ?? 0 > 0))
    func hugePage() throws {
        let backing = try GuestMemoryBacking(
            [Self.window(0, 2 << 20)],
            options: GuestMemoryOptions(pageSize: .huge2M, prefault: true))
        try backing.memory.write(GuestAddress(0x1f_fff8), 7 as UInt64)
        #expect(try backing.memory.read(GuestAddress(0x1f_fff8), as: UInt64.self) == 7)
    }

    @Test(
        "a NUMA policy is applied, or said to be impossible",
        arguments: [GuestMemoryPlacement.Policy.bind, .preferred, .interleave])
    func placement(policy: GuestMemoryPlacement.Policy) throws {
        let options = GuestMemoryOptions(
            placement: GuestMemoryPlacement(policy: policy, nodes: [0]), prefault: true)
        do {
            let backing = try GuestMemoryBacking([Self.window(0, 0x4000)], options: options)
            #expect(Self.residentPages(backing) == 4)
        } catch {
            // Containers may not be allowed to set a policy.
            #expect([.noNUMA, .system(SystemError("mbind", errno: EPERM))].contains(error))
        }
    }

    @Test("a node that the host lacks is refused", arguments: [1023, UInt32.max])
    func missingNode(node: UInt32) {
        let options = GuestMemoryOptions(
            placement: GuestMemoryPlacement(policy: .bind, nodes: [node]))
        let error = #expect(throws: GuestMemoryBackingError.self) {
            try GuestMemoryBacking([Self.window(0, 0x4000)], options: options)
        }
        #expect(error == .noSuchNode(node) || error == .noNUMA)
    }

    @Test(
        "a policy takes the right number of nodes",
        arguments: [
            (.bind, []), (.interleave, []), (.preferred, []), (.preferred, [0, 0]),
        ] as [(GuestMemoryPlacement.Policy, [UInt32])])
    func nodeCount(policy: GuestMemoryPlacement.Policy, nodes: [UInt32]) {
        let options = GuestMemoryOptions(
            placement: GuestMemoryPlacement(policy: policy, nodes: nodes))
        let error = #expect(throws: GuestMemoryBackingError.self) {
            try GuestMemoryBacking([Self.window(0, 0x4000)], options: options)
        }
        #expect(error == .nodeCount(nodes.count, policy) || error == .noNUMA)
    }
}
