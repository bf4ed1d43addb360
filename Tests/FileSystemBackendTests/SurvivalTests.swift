import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: a process after one that was killed") struct SurvivalTests {
    private let rig: SharedFolderRig

    init() throws { rig = try SharedFolderRig("xattr=on", isKept: true) }

    @Test("files, also open ones without a name, stay what they are")
    func files() throws {
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        #expect(try rig.write(node, handle, at: 0, Array("data".utf8)).error == 0)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file")).error == 0)
        try rig.folder.file("other", [1])
        let other = try rig.node("other")
        for round in 1...3 {
            try rig.replace()
            #expect(try rig.read(node, handle, at: 0, 100).bytes == Array("data".utf8))
            #expect(try rig.node("other") == other, "round \(round)")
            #expect(rig.fileSystem.nodes.count == 2)
            #expect(rig.fileSystem.handles.count == 1)
        }
        #expect(try rig.call(FUSE.release, node, littleEndian(handle, 0, 0)).error == 0)
        try rig.replace()
        #expect(try rig.read(node, handle, at: 0, 100).error == EBADF)
        // Numbers are not used again.
        #expect(try rig.create("new")[128, UInt64.self] != handle)
    }

    @Test("so do many files")
    func manyFiles() throws {
        let names = (0..<200).map { "f\($0)" }
        for name in names { try rig.folder.file(name, Array(name.utf8)) }
        let nodes = try names.map { try rig.node($0) }
        let handles = try nodes.map { try rig.open($0, O_RDONLY) }
        try rig.replace()
        for (index, name) in names.enumerated() {
            #expect(
                try rig.read(nodes[index], handles[index], at: 0, 100).bytes == Array(name.utf8))
        }
    }

    @Test("a folder is read on where it was")
    func folders() throws {
        for number in 0..<50 { try rig.folder.file("f\(number)", []) }
        let handle = try rig.call(FUSE.opendir, FUSE.root, littleEndian(0, 0 as UInt32))
        var names: Set<String> = []
        var offset: UInt64 = 0
        while true {
            let answer = try rig.call(
                FUSE.readdir, FUSE.root,
                littleEndian(handle[0, UInt64.self], offset) + littleEndian(256 as UInt32, 0)
                    + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32), room: 16 + 256)
            try #require(answer.error == 0)
            if answer.bytes.isEmpty { break }
            var place = 0
            while place < answer.bytes.count {
                let length = Int(answer[place + 16, UInt32.self])
                offset = answer[place + 8, UInt64.self]
                let text = answer.bytes[place + 24..<place + 24 + length]
                #expect(names.insert(String(decoding: text, as: UTF8.self)).inserted)
                place += 24 + (length + 7) / 8 * 8
            }
            try rig.replace()
        }
        #expect(names.count == 52)
    }

    @Test("a new session knows nothing of the old one")
    func newSession() throws {
        try rig.folder.file("file", [])
        let node = try rig.node("file")
        try rig.replace()
        #expect(try rig.begin().error == 0)
        try rig.replace()
        #expect(try rig.call(FUSE.getattr, node, littleEndian(0, 0, 0, 0)).error == ESTALE)
        #expect(rig.fileSystem.nodes.count == 0)
    }

    /// A request that must not be done twice, and what it does.
    struct Change: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let opcode: UInt32
        let body: [UInt8]
        /// What another such request is answered with.
        let secondError: Int32

        init(_ name: String, _ opcode: UInt32, _ body: [UInt8], then secondError: Int32) {
            testDescription = name
            self.opcode = opcode
            self.body = body
            self.secondError = secondError
        }
    }

    private static let changes = [
        Change(
            "mkdir", FUSE.mkdir, littleEndian(0o755, 0 as UInt32) + FUSE.text("new"), then: EEXIST),
        Change(
            "mknod", FUSE.mknod, littleEndian(FUSE.regular | 0o600, 0, 0, 0) + FUSE.text("new"),
            then: EEXIST),
        Change("symlink", FUSE.symlink, FUSE.text("new") + FUSE.text("target"), then: EEXIST),
        Change(
            "create", FUSE.create,
            littleEndian(UInt32(O_RDWR | O_EXCL), 0o444, 0, 0) + FUSE.text("new"), then: EEXIST),
        Change("unlink", FUSE.unlink, FUSE.text("file"), then: ENOENT),
        Change("rmdir", FUSE.rmdir, FUSE.text("folder"), then: ENOENT),
        Change(
            "rename", FUSE.rename, littleEndian(FUSE.root) + FUSE.text("file") + FUSE.text("new"),
            then: ENOENT),
        Change(
            "rename2", FUSE.rename2,
            littleEndian(FUSE.root) + littleEndian(1, 0 as UInt32) + FUSE.text("file")
                + FUSE.text("new"),
            then: ENOENT),
    ]

    private static let stages = [CLINUX_TASK_BEGUN, CLINUX_TASK_DONE].map(\.rawValue)

    @Test("a change that was made is not made again", arguments: changes, stages)
    func changedOnce(change: Change, stage: UInt32) throws {
        try rig.folder.file("file", [1])
        _ = unsafe mkdir(rig.folder["folder"], 0o755)
        let bytes = rig.lanes[1].bytes(change.opcode, FUSE.root, change.body)
        let first = try #require(try rig.lanes[1].exchange(bytes))
        try #require(first.error == 0)
        try rig.replace(while: bytes, at: clinux_task_stage(stage))
        let again = try #require(try rig.lanes[1].exchange(bytes))
        #expect(again.error == 0)
        #expect(again.bytes.count == first.bytes.count)
        if !first.bytes.isEmpty, change.opcode != FUSE.rename {
            #expect(again.entry.inode == first.entry.inode)
            #expect(again.entry.mode == first.entry.mode)
            // Counted once.
            #expect(
                try rig.lanes[0].exchange(
                    rig.lanes[0].bytes(FUSE.forget, again.nodeID, littleEndian(1 as UInt64))) == nil
            )
            #expect(rig.fileSystem.nodes.count == 0)
            #expect(rig.fileSystem.handles.count == (change.opcode == FUSE.create ? 1 : 0))
        }
        #expect(try rig.call(change.opcode, FUSE.root, change.body).error == change.secondError)
    }

    @Test("names are exchanged once", arguments: stages)
    func exchanged(stage: UInt32) throws {
        try rig.folder.file("a", [1])
        try rig.folder.file("b", [2])
        let bytes = rig.lanes[1].bytes(
            FUSE.rename2, FUSE.root,
            littleEndian(FUSE.root) + littleEndian(2, 0 as UInt32) + FUSE.text("a") + FUSE.text("b")
        )
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        try rig.replace(while: bytes, at: clinux_task_stage(stage))
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        #expect(try readFile(rig.folder["a"]) == [2])
    }

    @Test("a link is made once", arguments: stages)
    func linked(stage: UInt32) throws {
        try rig.folder.file("file", [1])
        let node = try rig.node("file")
        let bytes = rig.lanes[1].bytes(
            FUSE.link, FUSE.root, littleEndian(node) + FUSE.text("second"))
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        try rig.replace(while: bytes, at: clinux_task_stage(stage))
        let again = try rig.lanes[1].exchange(bytes)
        #expect(again?.error == 0)
        #expect(again?.entry.links == 2)
    }

    @Test("what is written to the end is written once", arguments: stages)
    func appended(stage: UInt32) throws {
        let made = try rig.create("log", O_WRONLY | O_APPEND)
        let body =
            littleEndian(made[128, UInt64.self], 0) + littleEndian(3 as UInt32, 0)
            + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32) + [1, 2, 3]
        let bytes = rig.lanes[1].bytes(FUSE.write, made.nodeID, body)
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        try rig.replace(while: bytes, at: clinux_task_stage(stage))
        let again = try rig.lanes[1].exchange(bytes)
        #expect(again?[0, UInt32.self] == 3)
        #expect(try readFile(rig.folder["log"]) == [1, 2, 3])
        #expect(try rig.call(FUSE.write, made.nodeID, body).error == 0)
        #expect(try readFile(rig.folder["log"]) == [1, 2, 3, 1, 2, 3])
    }

    @Test("a change that was not made yet is made")
    func notYet() throws {
        let bytes = rig.lanes[1].bytes(
            FUSE.mkdir, FUSE.root, littleEndian(0o755, 0 as UInt32) + FUSE.text("new"))
        try rig.replace(while: bytes, at: CLINUX_TASK_BEGUN)
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        #expect(readFolder(rig.folder.path) == ["new"])
    }

    @Test("an error stays the same")
    func failed() throws {
        let bytes = rig.lanes[1].bytes(FUSE.unlink, FUSE.root, FUSE.text("file"))
        #expect(try rig.lanes[1].exchange(bytes)?.error == ENOENT)
        try rig.folder.file("file", [])
        try rig.replace(while: bytes, at: CLINUX_TASK_DONE)
        #expect(try rig.lanes[1].exchange(bytes)?.error == ENOENT)
        #expect(readFolder(rig.folder.path) == ["file"])
    }

    @Test("a file that was opened for nobody is closed, and a look-up counts once")
    func takenBack() throws {
        try rig.folder.file("file", [])
        let node = try rig.node("file")
        let bytes = rig.lanes[1].bytes(FUSE.open, node, littleEndian(0, 0 as UInt32))
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        try rig.replace(while: bytes, at: CLINUX_TASK_NONE)
        #expect(try rig.lanes[1].exchange(bytes)?.error == 0)
        #expect(rig.fileSystem.handles.count == 1)
        let look = rig.lanes[1].bytes(FUSE.lookup, FUSE.root, FUSE.text("file"))
        #expect(try rig.lanes[1].exchange(look)?.error == 0)
        try rig.replace(while: look, at: CLINUX_TASK_NONE)
        #expect(try rig.lanes[1].exchange(look)?.error == 0)
        rig.fileSystem.nodes.forget(node, 2)
        #expect(rig.fileSystem.nodes.count == 0)
    }

    @Test("what was forgotten is not forgotten twice", arguments: [false, true])
    func forgotten(isNoted: Bool) throws {
        try rig.folder.file("file", [])
        let node = try rig.node("file")
        for _ in 0..<2 { _ = try rig.node("file") }
        let bytes = rig.lanes[1].bytes(FUSE.forget, node, littleEndian(1 as UInt64))
        #expect(try rig.lanes[1].exchange(bytes) == nil)
        if !isNoted {
            // It died between the two.
            let task = try unsafe #require(rig.fileSystem.ledger).task(1)
            unsafe task.pointee.result = 0
            unsafe task.pointee.forgotten = node
        }
        try rig.replace(while: bytes, at: CLINUX_TASK_NONE)
        #expect(try rig.lanes[1].exchange(bytes) == nil)
        rig.fileSystem.nodes.forget(node, 1)
        #expect(rig.fileSystem.nodes.count == 1)
        rig.fileSystem.nodes.forget(node, 1)
        #expect(rig.fileSystem.nodes.count == 0)
    }
}
