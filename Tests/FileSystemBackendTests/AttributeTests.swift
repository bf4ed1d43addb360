import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: attributes") struct AttributeTests {
    static let isRoot = geteuid() == 0

    @Test("attributes are the file's own, and change as asked")
    func attributes() throws {
        let rig = try SharedFolderRig()
        let path = try rig.folder.file("file", [1, 2, 3])
        var status = stat()
        #expect(unsafe stat(path, &status) == 0)
        let entry = try rig.lookUp("file")
        #expect(entry.entry.inode == status.st_ino)
        #expect(entry.entry.size == 3)
        #expect(entry.entry.mode == status.st_mode)
        #expect(entry.entry.user == getuid())
        // cache=auto: valid for a second
        #expect(entry[16, UInt64.self] == 1)
        let changed = try rig.setAttributes(
            entry.nodeID, valid: 1 | 1 << 5, mtime: 1_234_567, mode: 0o4751)
        #expect(changed.error == 0)
        #expect(changed.attributes(at: 16).mode == FUSE.regular | 0o4751)
        #expect(unsafe stat(path, &status) == 0)
        #expect(status.st_mtim.tv_sec == 1_234_567)
        let now = try rig.setAttributes(entry.nodeID, valid: 1 << 5 | 1 << 8)
        #expect(now.attributes(at: 16).mtime > 1_700_000_000)
    }

    @Test("extended status agrees, and has the time of birth")
    func extendedStatus() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file", [1, 2, 3])
        let node = try rig.node("file")
        let answer = try rig.call(FUSE.statx, node, [UInt8](repeating: 0, count: 24))
        #expect(answer.bytes.count == 288)
        let mask = answer[32, UInt32.self]
        #expect(mask & 0x7ff == 0x7ff)
        #expect(answer[32 + 28, UInt16.self] == UInt16(FUSE.regular | 0o644))
        #expect(answer[32 + 32, UInt64.self] == (try rig.lookUp("file").entry.inode))
        #expect(answer[32 + 40, UInt64.self] == 3)
        #expect(mask & 0x800 == 0 || answer[32 + 80, UInt64.self] > 1_700_000_000)
        let seconds = answer[32 + 112, UInt64.self]
        #expect(seconds == (try rig.lookUp("file").entry.mtime))
    }

    @Test("what users create is theirs", .enabled(if: isRoot))
    func users() throws {
        let rig = try SharedFolderRig()
        #expect(unsafe chmod(rig.folder.path, 0o755) == 0)
        // The guest's kernel has checked permissions: nobody else may write here.
        let file = try rig.create("file", mode: 0o2775, user: 1234, group: 5678)
        #expect(file.error == 0)
        #expect(file.entry.user == 1234)
        #expect(file.entry.group == 5678)
        #expect(file.entry.mode == FUSE.regular | 0o2775)
        let folder = try rig.call(
            FUSE.mkdir, FUSE.root, littleEndian(0o700, 0 as UInt32) + FUSE.text("folder"),
            user: 1234, group: 5678)
        #expect(folder.entry.user == 1234)
        let link = try rig.call(
            FUSE.symlink, folder.nodeID, FUSE.text("link") + FUSE.text("x"), user: 0, group: 7)
        #expect(link.entry.user == 0)
        #expect(link.entry.group == 7)
        let pipe = try rig.call(
            FUSE.mknod, FUSE.root, littleEndian(FUSE.pipe | 0o600, 0, 0, 0) + FUSE.text("pipe"),
            user: 9, group: 9)
        #expect(pipe.entry.user == 9)
        #expect(try rig.create("mine").entry.user == 0)
        #expect(try rig.create("nobody", user: .max).error == EINVAL)
        let given = try rig.setAttributes(file.nodeID, valid: 2 | 4, user: 42, group: 43)
        #expect(given.attributes(at: 16).user == 42)
        #expect(given.attributes(at: 16).group == 43)
    }

    @Test(
        "a folder's group is inherited, and its bit not kept by somebody else",
        .enabled(if: isRoot))
    func groups() throws {
        let rig = try SharedFolderRig()
        let folder = try rig.call(
            FUSE.mkdir, FUSE.root, littleEndian(0o777, 0 as UInt32) + FUSE.text("folder"))
        _ = try rig.setAttributes(folder.nodeID, valid: 4, group: 99)
        _ = try rig.setAttributes(folder.nodeID, valid: 1, mode: 0o2777)
        let file = try rig.create("file", mode: 0o2771, in: folder.nodeID, user: 5, group: 5)
        #expect(file.entry.group == 99)
        #expect(file.entry.mode == FUSE.regular | 0o771)
        let inner = try rig.call(
            FUSE.mkdir, folder.nodeID, littleEndian(0o755, 0 as UInt32) + FUSE.text("inner"),
            user: 5, group: 5)
        #expect(inner.entry.mode == FUSE.folder | 0o2755)
    }

    @Test("access is what the mode says")
    func access() throws {
        let rig = try SharedFolderRig()
        let node = try rig.create("file", mode: 0o640).nodeID
        func access(_ mask: UInt32, user: UInt32, group: UInt32) throws -> Int32 {
            try rig.call(
                FUSE.access, node, littleEndian(mask, 0), user: user, group: group
            ).error
        }
        let (user, group) = (getuid(), getgid())
        #expect(try access(6, user: user, group: group) == 0)
        #expect(try access(1, user: user, group: group) == EACCES)
        #expect(try access(4, user: 77, group: group) == 0)
        #expect(try access(2, user: 77, group: group) == EACCES)
        #expect(try access(4, user: 77, group: 77) == EACCES)
        #expect(try access(0, user: 77, group: 77) == 0)
    }

    @Test("the file system's space is told")
    func space() throws {
        let rig = try SharedFolderRig(in: "/dev/shm")
        let answer = try rig.call(FUSE.statfs)
        var status = statvfs()
        #expect(unsafe statvfs(rig.folder.path, &status) == 0)
        #expect(answer.bytes.count == 80)
        #expect(answer[0, UInt64.self] == UInt64(status.f_blocks))
        #expect(answer[40, UInt32.self] == UInt32(status.f_bsize))
        #expect(answer[44, UInt32.self] == 255)
    }

    @Test("extended attributes are set, read, listed and removed")
    func extendedAttributes() throws {
        let rig = try SharedFolderRig("xattr=on")
        let node = try rig.create("file").nodeID
        func set(_ name: String, _ value: [UInt8], flags: UInt32 = 0) throws -> Int32 {
            try rig.call(
                FUSE.setxattr, node,
                littleEndian(UInt32(value.count), flags, 0, 0) + FUSE.text(name) + value
            ).error
        }
        func get(_ name: String, _ size: UInt32) throws -> Answer {
            try rig.call(FUSE.getxattr, node, littleEndian(size, 0) + FUSE.text(name))
        }
        #expect(try set("user.a", [1, 2, 3]) == 0)
        #expect(try set("user.a", [1], flags: 1) == EEXIST)
        #expect(try set("user.b", [], flags: 2) == ENODATA)
        #expect(try set("user.b", [], flags: 4) == EINVAL)
        #expect(try set("user.b", []) == 0)
        #expect(try get("user.a", 100).bytes == [1, 2, 3])
        #expect(try get("user.a", 0)[0, UInt32.self] == 3)
        #expect(try get("user.a", 2).error == ERANGE)
        #expect(try get("user.c", 2).error == ENODATA)
        let list = try rig.call(FUSE.listxattr, node, littleEndian(4096, 0 as UInt32))
        let names = list.bytes.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        #expect(Set(names) == ["user.a", "user.b"])
        #expect(
            try rig.call(FUSE.listxattr, node, littleEndian(0, 0 as UInt32))[0, UInt32.self]
                == UInt32(list.bytes.count))
        #expect(try rig.call(FUSE.removexattr, node, FUSE.text("user.b")).error == 0)
        #expect(try get("user.b", 2).error == ENODATA)
        // A size that is not that of the value.
        let lying = littleEndian(1000, 0, 0, 0 as UInt32) + FUSE.text("user.x") + [1, 2]
        #expect(try rig.call(FUSE.setxattr, node, lying).error == EINVAL)
    }

    @Test("without the option nobody is asked again")
    func noExtendedAttributes() throws {
        let rig = try SharedFolderRig()
        for opcode in FUSE.setxattr...FUSE.removexattr {
            #expect(try rig.call(opcode, FUSE.root, FUSE.text("user.a")).error == ENOSYS)
        }
    }
}
