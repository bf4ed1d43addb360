import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

/// A queue's thread may still be the user who last made something when it does the next thing.
@Suite("Shared folder: as whom things are done", .enabled(if: geteuid() == 0)) struct FileUserTests
{
    private let rig: SharedFolderRig

    init() throws { rig = try SharedFolderRig() }

    private func makeAsUser(_ name: String, _ id: UInt32 = 1000) throws -> Answer {
        let made = try rig.create(name, mode: 0o755, user: id, group: id)
        try #require(made.error == 0)
        #expect(made.entry.user == id)
        #expect(made.entry.group == id)
        return made
    }

    private func mode(_ name: String) throws -> UInt32 {
        try rig.lookUp(name).entry.mode & 0o7777
    }

    /// - Parameter drops: set-ID bits are to go.
    private func write(_ made: Answer, drops: Bool, user: UInt32) throws {
        let answer = try rig.call(
            FUSE.write, made.nodeID,
            littleEndian(made[128, UInt64.self], 0) + littleEndian(1, drops ? 4 : 0 as UInt32)
                + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32) + [1],
            user: user, group: user)
        try #require(answer.error == 0)
    }

    @Test("users take turns, and root is between them")
    func turns() throws {
        for (index, id) in [1000, 1000, 2000, 0, 1000, 0, 3000].enumerated() {
            _ = try makeAsUser("file\(index)", UInt32(id))
        }
        // A number that is nobody's, after somebody.
        #expect(try rig.create("nobody", user: .max, group: 3000).error == EINVAL)
        #expect(try rig.create("root").entry.user == 0)
    }

    @Test("what only root may do is done by root")
    func root() throws {
        let node = try makeAsUser("file").nodeID
        #expect(try rig.setAttributes(node, valid: 2 | 4, user: 7, group: 8).error == 0)
        _ = try makeAsUser("second")
        // The user is not in the file's group, and keeps the bit all the same.
        #expect(try rig.setAttributes(node, valid: 1, mode: 0o2755).error == 0)
        #expect(try mode("file") == 0o2755)
        _ = try makeAsUser("third")
        #expect(unsafe chmod(rig.folder.path, 0o1777) == 0)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file"), user: 1000).error == 0)
    }

    @Test("what the guest's kernel allows a user is not refused here")
    func permitted() throws {
        _ = unsafe mkdir(rig.folder["locked"], 0o700)
        try rig.folder.file("locked/file", [1, 2, 3])
        #expect(unsafe chmod(rig.folder["locked/file"], 0) == 0)
        _ = try makeAsUser("mine")
        let folder = try rig.call(
            FUSE.lookup, FUSE.root, FUSE.text("locked"), user: 1000, group: 1000
        ).nodeID
        let file = try rig.call(
            FUSE.lookup, folder, FUSE.text("file"), user: 1000, group: 1000)
        #expect(file.error == 0)
        let opened = try rig.call(
            FUSE.open, file.nodeID, littleEndian(0, 0 as UInt32), user: 1000, group: 1000)
        #expect(opened.error == 0)
        let made = try rig.create("new", in: folder, user: 1000, group: 1000)
        #expect(made.entry.user == 1000)
    }

    @Test("set-ID bits are lost by those who lose them")
    func setID() throws {
        let made = try makeAsUser("file")
        func set() throws {
            #expect(try rig.setAttributes(made.nodeID, valid: 1, mode: 0o6755).error == 0)
        }
        try set()
        _ = try makeAsUser("second")
        try write(made, drops: false, user: 0)
        #expect(try mode("file") == 0o6755)
        try write(made, drops: true, user: 1000)
        #expect(try mode("file") == 0o755)
        try set()
        try write(made, drops: false, user: 1000)
        #expect(try mode("file") == 0o6755)
        _ = try makeAsUser("third")
        let truncated = try rig.call(
            FUSE.open, made.nodeID,
            littleEndian(UInt32(bitPattern: O_WRONLY | O_TRUNC), 0), user: 1000, group: 1000)
        #expect(truncated.error == 0)
        #expect(try mode("file") == 0o6755)
        try write(made, drops: true, user: 0)
        #expect(try mode("file") == 0o755)
    }

    @Test("look-ups count, whether many new files were found before or not")
    func counted() throws {
        let names = (0..<6).map { "f\($0)" }
        for name in names { try rig.folder.file(name, []) }
        let first = try names.map { try rig.node($0) }
        #expect(try rig.lookUp("missing").error == ENOENT)
        for _ in 0..<2 { #expect(try names.map { try rig.node($0) } == first) }
        #expect(rig.fileSystem.nodes.count == 6)
        for node in first { rig.fileSystem.nodes.forget(node, 2) }
        #expect(rig.fileSystem.nodes.count == 6)
        for node in first { rig.fileSystem.nodes.forget(node, 1) }
        #expect(rig.fileSystem.nodes.count == 0)
    }
}
