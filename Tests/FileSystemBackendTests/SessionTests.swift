import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: sessions") struct SessionTests {
    static let rings = [0, VirtioFeature.packedRing | VirtioFeature.eventIndex]

    @Test("driver and device agree on the older version and on common abilities", arguments: rings)
    func agrees(ring: UInt64) throws {
        let rig = try SharedFolderRig(ring: ring)
        let answer = try rig.begin(minor: 31, flags: 1 << 5 | 1 << 22 | 1 << 9)
        #expect(answer.error == 0)
        #expect(answer.bytes.count == 64)
        #expect(answer[0, UInt32.self] == 7)
        #expect(answer[4, UInt32.self] == 31)
        #expect(answer[12, UInt32.self] == 1 << 5 | 1 << 22)
        // max_write and max_pages
        #expect(answer[20, UInt32.self] == 1 << 20)
        #expect(answer[28, UInt16.self] == 256)
    }

    @Test("versions that are too old are refused, and newer ones told what there is")
    func versions() throws {
        let rig = try SharedFolderRig(isStarted: false)
        #expect(try rig.begin(major: 6).error == EPROTO)
        #expect(try rig.begin(minor: 26).error == EPROTO)
        let answer = try rig.begin(major: 8)
        #expect(answer.error == 0)
        #expect(answer[0, UInt32.self] == 7)
    }

    @Test("the configuration space holds the tag and the number of queues")
    func config() throws {
        let rig = try SharedFolderRig("tag=share", queues: 3)
        let expected =
            Array("share".utf8) + [UInt8](repeating: 0, count: 31) + littleEndian(3 as UInt32)
        #expect(rig.device.readConfig(offset: 0, count: 100) == expected)
        #expect(rig.device.readConfig(offset: 36, count: 1) == [3])
        #expect(rig.device.readConfig(offset: 40, count: 1).isEmpty)
        #expect(rig.device.queueCount == 4)
    }

    @Test("a tag has 1 to 36 bytes, and a folder must be there")
    func options() throws {
        let long = String(repeating: "x", count: 37)
        for text in ["path=/,tag=\(long)", "path=/,tag=", "tag=x"] {
            #expect(throws: OptionError.self) { try FSOptions(FSOptions.schema.parse(text)) }
        }
        #expect(throws: BackendError.self) { try SharedFolder(FSOptions(path: "/nonexistent")) }
        #expect(throws: BackendError.self) { try SharedFolder(FSOptions(path: "/etc/passwd")) }
    }

    @Test("what is known outlives a queue's restart, but not a new session")
    func restart() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file", [1, 2, 3])
        let node = try rig.node("file")
        let handle = try rig.open(node, O_RDONLY)
        let state = rig.device.stopQueue(1)
        rig.device.reset()
        let lane = rig.lanes[1]
        var setup = lane.driver.setup(rig.scratch.memory, kick: lane.kick, call: lane.call)
        setup.state = state
        try rig.device.startQueue(1, setup)
        #expect(try rig.read(node, handle, at: 0, 10).bytes == [1, 2, 3])
        try rig.begin()
        #expect(try rig.read(node, handle, at: 0, 10).error == EBADF)
        #expect(try rig.call(FUSE.getattr, node, littleEndian(0, 0 as UInt64)).error == ESTALE)
        #expect(try rig.call(FUSE.getattr, FUSE.root, littleEndian(0, 0 as UInt64)).error == 0)
    }

    @Test("the end of a session forgets everything")
    func end() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file")
        let node = try rig.node("file")
        _ = try rig.open(node, O_RDONLY)
        #expect(try rig.call(FUSE.destroy).error == 0)
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(rig.fileSystem.handles.count == 0)
    }

    @Test("a file is forgotten when all look-ups are taken back, and its number means nothing then")
    func forget() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file")
        let node = try rig.node("file")
        #expect(try rig.node("file") == node)
        let urgent = rig.lanes[0]
        func forget(_ id: UInt64, _ count: UInt64) throws {
            let bytes = urgent.bytes(FUSE.forget, id, littleEndian(count))
            #expect(try urgent.exchange(bytes, room: 0) == nil)
        }
        try forget(node, 1)
        #expect(rig.fileSystem.nodes.count == 1)
        try forget(node, 1)
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(try rig.call(FUSE.getattr, node, littleEndian(0, 0 as UInt64)).error == ESTALE)
        let again = try rig.node("file")
        #expect(again != node)
        try forget(again, .max)
        try forget(FUSE.root, .max)
        try forget(12345, 1)
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(try rig.node("file") != 0)
    }

    @Test("many files are forgotten at once, and a count that is too high does no harm")
    func forgetMany() throws {
        let rig = try SharedFolderRig()
        let nodes = try (0..<20).map { index -> UInt64 in
            try rig.folder.file("file\(index)")
            return try rig.node("file\(index)")
        }
        let urgent = rig.lanes[0]
        let body =
            littleEndian(UInt32.max, 0) + nodes.flatMap { littleEndian($0, 1) }
        #expect(try urgent.exchange(urgent.bytes(FUSE.batchForget, 0, body), room: 0) == nil)
        #expect(rig.fileSystem.nodes.count == 0)
    }

    @Test("requests that nobody knows are answered so")
    func unknown() throws {
        let rig = try SharedFolderRig()
        let known = Set(FUSE.all)
        for opcode in (0...60).map(UInt32.init) + [4096, .max] where !known.contains(opcode) {
            #expect(try rig.call(opcode).error == ENOSYS, "\(opcode)")
        }
    }
}
