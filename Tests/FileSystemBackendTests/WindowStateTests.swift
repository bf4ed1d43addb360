import Core
import Glibc
import Synchronization
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: what is mapped stays mapped") struct WindowStateTests {
    private static let size: UInt64 = 8 << 20

    private let window: WindowChannel
    private let rig: SharedFolderRig
    private let node: UInt64

    init() throws {
        window = try WindowChannel(size: Self.size)
        rig = try SharedFolderRig("cache-size=8M", window: window)
        var bytes = [UInt8](repeating: 0, count: 8 * 4096)
        for page in 0..<8 { bytes[page * 4096] = UInt8(page + 1) }
        try rig.folder.file("file", bytes)
        node = try rig.node("file")
    }

    private func map(
        from offset: UInt64 = 0, _ size: UInt64 = 0x8000, at place: UInt64, flags: UInt64 = 3
    ) throws -> Int32 {
        let body = littleEndian(UInt64.max, offset, size, flags, place)
        return try rig.call(FUSE.setupMapping, node, body).error
    }

    private func unmap(_ ranges: [(UInt64, UInt64)]) throws -> Int32 {
        try rig.call(FUSE.removeMapping, 0, Self.removal(ranges)).error
    }

    private static func removal(_ ranges: [(UInt64, UInt64)]) -> [UInt8] {
        littleEndian(UInt32(ranges.count)) + ranges.flatMap { littleEndian($0.0, $0.1) }
    }

    private func pages(_ place: Int, _ count: Int = 8) -> [UInt8] {
        (0..<count).map { window.byte(place + $0 * 4096) }
    }

    private var mapped: [MappingTable.Mapping] { rig.fileSystem.mappings?.all ?? [] }

    /// A front end that starts with an empty window.
    private func emptyWindow() throws {
        try window.memory.clear()
        window.state.withLock { $0.pieces = [] }
    }

    // MARK: Another program

    @Test("another program maps it again, and goes on mapping")
    func handOver() throws {
        #expect(try map(at: 0) == 0)
        #expect(try map(from: 0x4000, 0x2000, at: 0x2000) == 0)
        #expect(try map(from: 0x1000, 0x1000, at: 0x100000, flags: 2) == 0)
        let before = mapped
        #expect(before.count == 4)
        for _ in 0..<2 {
            try emptyWindow()
            try rig.handOver("cache-size=8M")
            // Done before anything else.
            #expect(try rig.lookUp("file").error == 0)
            #expect(pages(0) == [1, 2, 5, 6, 5, 6, 7, 8])
            #expect(window.byte(0x100000) == 2)
            #expect(mapped == before)
        }
        window.store(77, at: 0x1001)
        let handle = try rig.open(node, O_RDONLY)
        #expect(try rig.read(node, handle, at: 0x1001, 1).bytes == [77])
        #expect(try map(at: 0x200000) == 0)
        #expect(pages(0x200000) == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(try unmap([(0, 0x8000), (0x100000, 0x1000)]) == 0)
        #expect(pages(0) == [0, 0, 0, 0, 0, 0, 0, 0])
        #expect(mapped.count == 1)
    }

    @Test("a program that shares for reading only does not map for writing")
    func readOnly() throws {
        #expect(try map(0x1000, at: 0) == 0)
        #expect(try map(0x1000, at: 0x1000, flags: 2) == 0)
        try emptyWindow()
        try rig.handOver("cache-size=8M,readonly=on")
        #expect(try rig.lookUp("file").error == 0)
        #expect(pages(0, 2) == [0, 1])
        #expect(mapped.count == 1)
    }

    @Test("a program without a window does not take over")
    func noWindow() throws {
        #expect(try map(at: 0) == 0)
        #expect(throws: VirtioDeviceError.self) { try rig.handOver("cache=auto") }
    }

    /// A state with mappings, and nothing else.
    private func state(_ mappings: [MappingTable.Mapping], count: Int? = nil) -> [UInt8] {
        var writer = FolderState.Writer(
            rootInode: rig.fileSystem.nodes.root.key.inode, abilities: 0)
        writer.putCount(0)
        writer.putCount(0)
        writer.putCount(count ?? mappings.count)
        for mapping in mappings { writer.put(mapping) }
        return writer.bytes
    }

    private static func mapping(
        _ start: UInt64, _ size: UInt64, from offset: UInt64 = 0, node: UInt64 = 1 << 32
    ) -> MappingTable.Mapping {
        MappingTable.Mapping(
            start: start, size: size, fileOffset: offset, node: node, isWritable: true)
    }

    @Test(
        "mappings that there cannot be are refused, and change nothing",
        arguments: [
            [mapping(0x100, 0x1000)], [mapping(0, 0)], [mapping(0, 0x100)],
            [mapping(size, 0x1000)], [mapping(size - 0x1000, 0x2000)],
            [mapping(0x1000, UInt64.max - 0xFFF)], [mapping(UInt64.max - 0xFFF, 0x1000)],
            [mapping(0, 0x1000, from: 0x100)], [mapping(0, 0x1000, from: 1 << 63)],
            [mapping(0, 0x1000, from: 0x7FFF_FFFF_FFFF_F000)],
            // One in the other, and not in order.
            [mapping(0, 0x2000), mapping(0x1000, 0x1000)],
            [mapping(0x1000, 0x1000), mapping(0, 0x1000)],
        ])
    func hostile(mappings: [MappingTable.Mapping]) throws {
        #expect(try map(at: 0) == 0)
        let before = mapped
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) { try rig.device.loadState(state(mappings)) }
        #expect(mapped == before)
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.lookUp("file").error == 0)
    }

    @Test("so are more than there can be, and fewer than are announced")
    func counts() throws {
        rig.device.reset()
        for count in [1, Ledger.mappingLimit + 1, Int(UInt32.max)] {
            #expect(throws: VirtioDeviceError.self) {
                try rig.device.loadState(state([], count: count))
            }
        }
        // A file that is not known is not mapped.
        try rig.device.loadState(state([Self.mapping(0, 0x1000, node: 12345)]))
        #expect(mapped.count == 1)
        rig.fileSystem.mappings?.restore { _, _ in nil }
        #expect(mapped.isEmpty)
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.lookUp("file").error == 0)
    }

    // MARK: Nobody answers

    /// A table of which three parts are mapped, of a file that is all sevens.
    private func table(_ window: WindowChannel) throws -> (MappingTable, MappingTable.Open) {
        let path = try rig.folder.file("sevens", [UInt8](repeating: 7, count: 0x8000))
        let open: MappingTable.Open = { _, isWritable in
            SharedFD(owning: unsafe Glibc.open(path, isWritable ? O_RDWR : O_RDONLY))
        }
        let table = MappingTable(size: Self.size, nil)
        table.use(window)
        for place in [0, 0x10000, 0x20000] as [UInt64] {
            let file = try #require(open(1, true))
            try table.add(Self.mapping(place, 0x4000, node: 1), file, open)
        }
        return (table, open)
    }

    @Test("a front end that goes while it is shown all of it loses nothing", arguments: 0...3)
    func goneWhileRestoring(steps: Int) throws {
        let (table, open) = try table(WindowChannel(size: Self.size))
        let before = table.all
        let gone = try WindowChannel(size: Self.size)
        gone.state.withLock { $0.goneAfter = steps }
        table.use(gone)
        table.restore(open)
        #expect(table.all == before)
        let new = try WindowChannel(size: Self.size)
        table.use(new)
        table.restore(open)
        #expect(table.all == before)
        #expect([0, 0x10000, 0x20000].map { new.byte($0) } == [7, 7, 7])
    }

    @Test("so does one that answers no more, and then does")
    func silence() throws {
        let window = try WindowChannel(size: Self.size)
        let (table, open) = try table(window)
        let before = table.all
        table.use(window)
        try window.memory.clear()
        window.state.withLock { $0.goneAfter = 1 }
        table.restore(open)
        #expect([0, 0x10000, 0x20000].map { window.byte($0) } == [7, 0, 0])
        window.state.withLock { $0.goneAfter = .max }
        table.restore(open)
        #expect([0, 0x10000, 0x20000].map { window.byte($0) } == [7, 7, 7])
        #expect(table.all == before)
    }

    @Test("one that goes in the midst of a change has the rest mapped again", arguments: 0...5)
    func goneWhileClearing(steps: Int) throws {
        let window = try WindowChannel(size: Self.size, isStrict: true)
        let (table, open) = try table(window)
        let before = table.all
        window.state.withLock { $0.goneAfter = steps }
        // From the middle of the first to that of the second: it refuses, two are taken away, and of
        // each a part is mapped again.
        var error: FUSEError?
        do throws(FUSEError) {
            try table.remove(0x2000, 0x10000, open)
        } catch let failure {
            error = failure
        }
        let isDone = steps == 5
        #expect(error?.code == (isDone ? nil : EIO))
        #expect(isDone || table.all == before)
        let new = try WindowChannel(size: Self.size)
        table.use(new)
        table.restore(open)
        #expect([0, 0x13000, 0x20000].map { new.byte($0) } == [7, 7, 7])
        #expect([0x3000, 0x10000].map { new.byte($0) } == (isDone ? [0, 0] : [7, 7]))
    }

    @Test("a new session begins with nothing, whoever has gone")
    func goneAtEnd() throws {
        let window = try WindowChannel(size: Self.size)
        let (table, open) = try table(window)
        window.state.withLock { $0.isGone = true }
        table.removeAll()
        #expect(table.all == [])
        let new = try WindowChannel(size: Self.size)
        table.use(new)
        table.restore(open)
        #expect(new.state.withLock { $0.requests } == 0)
    }

    // MARK: Many at once

    @Test("a request takes away as many mappings as Linux asks for, and no more")
    func removalLimit() throws {
        let ranges = (0..<257).map { (UInt64($0) * 0x1000, 0x1000 as UInt64) }
        #expect(try map(at: 0) == 0)
        #expect(try unmap(ranges) == EINVAL)
        #expect(mapped.count == 1)
        #expect(try unmap(ranges.dropLast()) == 0)
        #expect(mapped.count == 0)
    }

    @Test("a queue that is to stop does not wait for all of them")
    func stopping() throws {
        for place in 0..<100 as Range<UInt64> {
            #expect(try map(0x1000, at: place * 0x1000) == 0)
        }
        window.state.withLock {
            $0.delay = 20
            $0.requests = 0
        }
        let lane = rig.lanes[1]
        let ranges = (0..<100).map { (UInt64($0) * 0x1000, 0x1000 as UInt64) }
        let reply = try lane.post(lane.bytes(FUSE.removeMapping, 0, Self.removal(ranges)))
        while window.state.withLock({ $0.requests }) < 2 { Clock.sleep(milliseconds: 1) }
        _ = rig.device.stopQueue(1)
        #expect(window.state.withLock { $0.requests } < 50)
        // Nobody has it noted, so the driver is told to ask again.
        #expect(try lane.answer(to: reply) == EAGAIN)
        window.state.withLock { $0.delay = 0 }
        try rig.start(1)
        #expect(try unmap(ranges) == 0)
        #expect(mapped.isEmpty)
    }

    @Test("nor does it wait until all is mapped again")
    func stoppingWhileRestoring() throws {
        let window = try WindowChannel(size: Self.size)
        let (table, open) = try table(window)
        try window.memory.clear()
        table.use(window)
        let stop = StopSignal(try EventFD())
        stop.send()
        window.state.withLock { $0.requests = 0 }
        table.restore(open, until: stop)
        #expect(window.state.withLock { $0.requests } == 0)
        table.restore(open)
        #expect([0, 0x10000, 0x20000].map { window.byte($0) } == [7, 7, 7])
    }
}
