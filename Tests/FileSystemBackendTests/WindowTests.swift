import Core
import Glibc
import Synchronization
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: the window")
struct WindowTests {
    private static let size: UInt64 = 8 << 20
    private static let mapAlignment: UInt64 = 1 << 26
    private static let inodeDAX: UInt64 = 1 << 33

    private let window: WindowChannel
    private let rig: SharedFolderRig

    init() throws {
        window = try WindowChannel(size: Self.size)
        rig = try Self.rig(window)
        // Each page of 4 KiB begins with its number, from 1.
        var bytes = [UInt8](repeating: 0, count: 8 * 4096)
        for page in 0..<8 { bytes[page * 4096] = UInt8(page + 1) }
        try rig.folder.file("file", bytes)
    }

    private static func rig(
        _ window: WindowChannel?, _ options: String = "", isKept: Bool = false
    ) throws -> SharedFolderRig {
        try SharedFolderRig("cache-size=8M" + options, isKept: isKept, window: window)
    }

    private static func map(
        _ rig: SharedFolderRig, _ node: UInt64, from offset: UInt64 = 0, _ size: UInt64 = 0x8000,
        at place: UInt64, flags: UInt64 = 3, handle: UInt64 = .max
    ) throws -> Int32 {
        try rig.call(
            FUSE.setupMapping, node, littleEndian(handle, offset, size, flags, place)
        ).error
    }

    private func map(
        _ node: UInt64, from offset: UInt64 = 0, _ size: UInt64 = 0x8000, at place: UInt64,
        flags: UInt64 = 3, handle: UInt64 = .max
    ) throws -> Int32 {
        try Self.map(rig, node, from: offset, size, at: place, flags: flags, handle: handle)
    }

    private func unmap(_ ranges: [(UInt64, UInt64)], count: UInt32? = nil) throws -> Int32 {
        try rig.call(
            FUSE.removeMapping, 0,
            littleEndian(count ?? UInt32(ranges.count))
                + ranges.flatMap { littleEndian($0.0, $0.1) }
        ).error
    }

    private func pages(_ place: Int, _ count: Int = 8) -> [UInt8] {
        (0..<count).map { window.byte(place + $0 * 4096) }
    }

    @Test("INIT says how mappings are aligned, where there is somebody to make them")
    func session() throws {
        let answer = try rig.begin()
        #expect(UInt64(answer[12, UInt32.self]) & Self.mapAlignment != 0)
        #expect(answer[30, UInt16.self] == 12)
        #expect(UInt64(answer[32, UInt32.self]) << 32 & Self.inodeDAX != 0)
        let old = try rig.begin(flags: UInt64.max & ~Self.mapAlignment)
        #expect(UInt64(old[12, UInt32.self]) & Self.mapAlignment == 0)
        #expect(old[30, UInt16.self] == 0)
        #expect(UInt64(old[32, UInt32.self]) << 32 & Self.inodeDAX == 0)
        #expect(try map(try rig.node("file"), at: 0) == ENOSYS)
        for other in [try Self.rig(nil), try SharedFolderRig(window: window)] {
            let answer = try other.begin()
            #expect(UInt64(answer[12, UInt32.self]) & Self.mapAlignment == 0)
            #expect(answer[30, UInt16.self] == 0)
            try other.folder.file("file", [1])
            #expect(try Self.map(other, try other.node("file"), 0x1000, at: 0) == ENOSYS)
        }
    }

    @Test("files say that they are to be mapped, folders do not")
    func attributes() throws {
        let hasWindow = rig.fileSystem.localDevice != .max
        #expect(unsafe mkdir(rig.folder["folder"], 0o755) == 0)
        #expect(try rig.lookUp("file")[40 + 84, UInt32.self] == (hasWindow ? 2 : 0))
        #expect(try rig.lookUp("folder")[40 + 84, UInt32.self] == 0)
        try rig.begin(flags: UInt64.max & ~Self.inodeDAX)
        #expect(try rig.lookUp("file")[40 + 84, UInt32.self] == 0)
    }

    @Test("a file is shown, written to by way of it, and taken away")
    func mapping() throws {
        let node = try rig.node("file")
        #expect(try map(node, from: 0x2000, 0x4000, at: 0x200000) == 0)
        #expect(pages(0x200000) == [3, 4, 5, 6, 0, 0, 0, 0])
        window.store(200, at: 0x200001)
        let handle = try rig.open(node, O_RDWR)
        #expect(try rig.read(node, handle, at: 0x2001, 1).bytes == [200])
        #expect(try rig.write(node, handle, at: 0x2002, [201]).error == 0)
        #expect(window.byte(0x200002) == 201)
        #expect(try unmap([(0x200000, 0x2000)]) == 0)
        #expect(pages(0x200000) == [0, 0, 5, 6, 0, 0, 0, 0])
        #expect(try unmap([(0x202000, 0x1000), (0x203000, 0x1000)]) == 0)
        #expect(pages(0x200000) == [0, 0, 0, 0, 0, 0, 0, 0])
        #expect(rig.fileSystem.mappings?.all == [])
    }

    @Test("for reading, the file cannot be changed")
    func reading() throws {
        let node = try rig.node("file")
        #expect(try map(node, at: 0, flags: 2) == 0)
        window.store(99, at: 0x1000)
        let handle = try rig.open(node, O_RDONLY)
        #expect(try rig.read(node, handle, at: 0x1000, 1).bytes == [2])
        // The same for writing, in its place.
        #expect(try map(node, at: 0) == 0)
        #expect(window.byte(0x1000) == 2)
        window.store(98, at: 0x1000)
        #expect(try rig.read(node, handle, at: 0x1000, 1).bytes == [98])
    }

    @Test("mappings split others", arguments: [false, true])
    func overlap(isStrict: Bool) throws {
        window.state.withLock { $0.isStrict = isStrict }
        try rig.folder.file("other", [UInt8](repeating: 100, count: 8 * 4096))
        let (node, other) = (try rig.node("file"), try rig.node("other"))
        #expect(try map(node, at: 0x8000) == 0)
        #expect(try map(other, 0x2000, at: 0xA000) == 0)
        #expect(pages(0x8000) == [1, 2, 100, 100, 5, 6, 7, 8])
        #expect(rig.fileSystem.mappings?.all.count == 3)
        #expect(try unmap([(0xD000, 0x1000)]) == 0)
        #expect(pages(0x8000) == [1, 2, 100, 100, 5, 0, 7, 8])
        #expect(try map(node, from: 0x4000, 0x4000, at: 0xB000) == 0)
        #expect(pages(0x8000) == [1, 2, 100, 5, 6, 7, 8, 8])
        #expect(try map(node, at: 0x8000) == 0)
        #expect(pages(0x8000) == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(rig.fileSystem.mappings?.all.count == 1)
        #expect(try unmap([(0, Self.size)]) == 0)
        #expect(pages(0x8000) == [0, 0, 0, 0, 0, 0, 0, 0])
    }

    @Test(
        "what makes no sense is refused",
        arguments: [
            (0, 0x1000, 0x100, 3, EINVAL), (0x100, 0x1000, 0, 3, EINVAL), (0, 0, 0, 3, EINVAL),
            (0, 0x100, 0, 3, EINVAL), (0, 0x1000, size, 3, EINVAL),
            (0, 0x2000, size - 0x1000, 3, EINVAL), (0, 0x1000, 1 << 63, 3, EINVAL),
            (0, 0x1000, UInt64.max - 0xFFF, 3, EINVAL),
            (0, UInt64.max - 0xFFF, 0x1000, 3, EINVAL), (1 << 63, 0x1000, 0, 3, EINVAL),
            (0x7FFF_FFFF_FFFF_F000, 0x1000, 0, 3, EINVAL), (0, 0x1000, 0, 0, EINVAL),
            (0, 0x1000, 0, 4, EINVAL), (0, 0x1000, 0, UInt64.max, EINVAL),
        ] as [(UInt64, UInt64, UInt64, UInt64, Int32)])
    func refusals(offset: UInt64, size: UInt64, place: UInt64, flags: UInt64, error: Int32) throws {
        #expect(try map(try rig.node("file"), from: offset, size, at: place, flags: flags) == error)
        #expect(rig.fileSystem.mappings?.all == [])
        #expect(window.memory.pieceCount == 0)
    }

    @Test("so is the end of what there cannot be")
    func removals() throws {
        for (place, count) in [
            (0, 0), (0, 0x100), (0x100, 0x1000), (Self.size, 0x1000), (0, Self.size + 0x1000),
            (UInt64.max - 0xFFF, 0x2000),
        ] as [(UInt64, UInt64)] {
            #expect(try unmap([(place, count)]) == EINVAL)
        }
        #expect(try unmap([]) == EINVAL)
        #expect(try unmap([(0, 0x1000)], count: 2) == EINVAL)
        #expect(try unmap([(0, 0x1000)], count: .max) == EINVAL)
        #expect(try unmap([(0, 0x1000)]) == 0)
    }

    @Test("only regular files that may be used like this are mapped")
    func kinds() throws {
        #expect(unsafe mkdir(rig.folder["folder"], 0o755) == 0)
        #expect(unsafe symlink("file", rig.folder["link"]) == 0)
        #expect(unsafe mkfifo(rig.folder["pipe"], 0o600) == 0)
        #expect(try map(try rig.node("folder"), at: 0) == ENXIO)
        #expect(try map(try rig.node("link"), at: 0) == ELOOP)
        #expect(try map(try rig.node("pipe"), at: 0) == ENXIO)
        #expect(try map(12345, at: 0) == ESTALE)
        let node = try rig.node("file")
        #expect(try map(node, at: 0, handle: 12345) == EBADF)
        let (reader, writer) = (try rig.open(node, O_RDONLY), try rig.open(node, O_WRONLY))
        #expect(try map(node, at: 0, handle: reader) == EACCES)
        #expect(try map(node, at: 0, handle: writer) == EACCES)
        #expect(try map(node, at: 0, flags: 2, handle: reader) == 0)
        #expect(try map(node, at: 0, handle: try rig.open(node, O_RDWR)) == 0)
        let reading = try Self.rig(window, ",readonly=on")
        try reading.folder.file("file", [1])
        let other = try reading.node("file")
        #expect(try Self.map(reading, other, 0x1000, at: 0) == EROFS)
        #expect(try Self.map(reading, other, 0x1000, at: 0, flags: 2) == 0)
    }

    @Test("a front end that has gone is an error of the request, not of the folder")
    func gone() throws {
        let node = try rig.node("file")
        window.state.withLock { $0.isGone = true }
        #expect(try map(node, at: 0) == EIO)
        #expect(try rig.lookUp("file").error == 0)
        window.state.withLock { $0.isGone = false }
        #expect(try map(node, at: 0) == 0)
    }

    @Test("buffers outside memory, as a window's are for others, are an error of their request")
    func unreachable() throws {
        let node = try rig.node("file")
        let handle = try rig.open(node, O_RDWR)
        let lane = rig.lanes[1]
        let body =
            littleEndian(handle, 0) + littleEndian(4096 as UInt32, 0) + littleEndian(0 as UInt64)
            + littleEndian(0, 0 as UInt32)
        let far = DriverBuffer(GuestAddress(1 << 40), 4096)
        // The length that the header tells is that of the whole request.
        var write = lane.bytes(FUSE.write, node, body + [UInt8](repeating: 0, count: 4096))
        write.removeLast(4096)
        try rig.scratch.memory.write(lane.request.address, write)
        var isThere = lane.driver.add(
            readable: [DriverBuffer(lane.request.address, UInt32(write.count)), far],
            writable: [DriverBuffer(lane.reply.address, 24)], style: .indirect)
        #expect(isThere)
        if lane.driver.publish() { lane.kick.signal() }
        var used = try #require(try lane.driver.awaitUsed(lane.call))
        #expect(used.written == 16)
        #expect(
            try rig.scratch.memory.readBytes(lane.reply.address, count: 8)
                == littleEndian(16, UInt32(bitPattern: -EFAULT)))
        let read = lane.bytes(FUSE.read, node, body)
        try rig.scratch.memory.write(lane.request.address, read)
        isThere = lane.driver.add(
            readable: [DriverBuffer(lane.request.address, UInt32(read.count))],
            writable: [DriverBuffer(lane.reply.address, 16), far], style: .indirect)
        #expect(isThere)
        if lane.driver.publish() { lane.kick.signal() }
        used = try #require(try lane.driver.awaitUsed(lane.call))
        #expect(used.written == 16)
        #expect(
            try rig.scratch.memory.readBytes(lane.reply.address, count: 8)
                == littleEndian(16, UInt32(bitPattern: -EFAULT)))
        #expect(try rig.read(node, handle, at: 0, 1).bytes == [1])
    }

    @Test("a new session has an empty window", arguments: [FUSE.start, FUSE.destroy])
    func newSession(opcode: UInt32) throws {
        #expect(try map(try rig.node("file"), at: 0) == 0)
        if opcode == FUSE.start {
            try rig.begin()
        } else {
            #expect(try rig.call(FUSE.destroy).error == 0)
        }
        #expect(window.memory.pieceCount == 0)
        #expect(rig.fileSystem.mappings?.all == [])
    }

    @Test("the next process maps again what the driver had mapped", arguments: [false, true])
    func survival(isStrict: Bool) throws {
        let rig = try Self.rig(window, isKept: true)
        window.state.withLock { $0.isStrict = isStrict }
        try rig.folder.file("file", [UInt8](repeating: 7, count: 0x4000))
        try rig.folder.file("removed", [UInt8](repeating: 8, count: 0x4000))
        let (node, removed) = (try rig.node("file"), try rig.node("removed"))
        #expect(try Self.map(rig, node, 0x4000, at: 0) == 0)
        #expect(try Self.map(rig, removed, from: 0x1000, 0x1000, at: 0x2000) == 0)
        #expect(unsafe unlink(rig.folder["removed"]) == 0)
        let before = rig.fileSystem.mappings?.all
        for _ in 0..<2 {
            // A front end that starts with an empty window.
            try window.memory.clear()
            window.state.withLock { $0.pieces = [] }
            try rig.replace()
            // Done before anything else.
            #expect(try rig.lookUp("file").error == 0)
            #expect(pages(0, 4) == [7, 7, 8, 7])
            #expect(rig.fileSystem.mappings?.all == before)
        }
        // What was taken away stays away.
        #expect(
            try rig.call(
                FUSE.removeMapping, 0, littleEndian(1 as UInt32) + littleEndian(0, 0x4000 as UInt64)
            ).error == 0)
        try rig.replace()
        #expect(try rig.lookUp("file").error == 0)
        #expect(pages(0, 4) == [0, 0, 0, 0])
    }

    @Test("a folder whose files no window shows is refused at the start")
    func foreignFolder() throws {
        func open(_ text: String) throws {
            _ = try SharedFolder(FSOptions(FSOptions.schema.parse("path=/proc" + text)))
        }
        try open("")
        let error = #expect(throws: BackendError.self) { try open(",cache-size=2M") }
        #expect(error?.description.contains("lies on a file system (proc)") == true)
    }

    @Test("a window has whole pieces of 2 MiB", arguments: ["1M", "4K", "33G", "2097153"])
    func options(size: String) throws {
        #expect(throws: OptionError.self) {
            try FSOptions(FSOptions.schema.parse("path=/tmp,cache-size=\(size)"))
        }
    }
}
