import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import FileSystemBackend

/// Labels go by `user.` names on the host, which need no rights; not even root's files of other kinds
/// take those (xattr(7)).
@Suite("Shared folder: security labels") struct LabelTests {
    private static let ability: UInt64 = 1 << 32
    private static let map = "xattr=on,security-label=on,xattrmap=:map:security.:user.m.:"

    /// A list as Linux sends it (fs/fuse/dir.c, get_security_context).
    private static func list(
        _ labels: [(name: String, value: [UInt8])] = [
            ("security.selinux", Array("a:b:c".utf8) + [0])
        ]
    ) -> [UInt8] {
        var list: [UInt8] = []
        for (name, value) in labels {
            list += littleEndian(UInt32(value.count), 0) + FUSE.text(name) + value
            list += [UInt8](repeating: 0, count: (8 - list.count % 8) % 8)
        }
        return littleEndian(UInt32(8 + list.count), UInt32(labels.count)) + list
    }

    private static func arguments(_ opcode: UInt32, _ name: String) -> [UInt8] {
        switch opcode {
        case FUSE.create: littleEndian(UInt32(O_RDONLY), 0o444, 0, 0) + FUSE.text(name)
        case FUSE.tmpfile: littleEndian(UInt32(O_RDWR), 0o600, 0, 0) + FUSE.text("/")
        case FUSE.mkdir: littleEndian(0o755, 0 as UInt32) + FUSE.text(name)
        case FUSE.mknod: littleEndian(FUSE.regular | 0o444, 0, 0, 0) + FUSE.text(name)
        default: FUSE.text(name) + FUSE.text("target")
        }
    }

    private static func label(
        _ rig: SharedFolderRig, _ node: UInt64, _ name: String = "security.selinux"
    ) throws -> [UInt8]? {
        let answer = try rig.call(
            FUSE.getxattr, node, littleEndian(64, 0 as UInt32) + FUSE.text(name))
        return answer.error == 0 ? answer.bytes : nil
    }

    @Test("are offered only with the option, to a driver that knows them")
    func offer() throws {
        let rig = try SharedFolderRig(Self.map)
        #expect(try rig.begin()[32, UInt32.self] & 1 == 1)
        #expect(try rig.begin(flags: UInt64.max & ~Self.ability)[32, UInt32.self] & 1 == 0)
        #expect(try SharedFolderRig("xattr=on").begin()[32, UInt32.self] & 1 == 0)
        #expect(throws: OptionError.self) {
            try FSOptions(FSOptions.schema.parse("path=/tmp,security-label=on"))
        }
    }

    @Test(
        "are on what is made",
        arguments: [FUSE.create, FUSE.mkdir, FUSE.mknod, FUSE.tmpfile], [UInt32(0), 1234])
    func made(opcode: UInt32, user: UInt32) throws {
        let rig = try SharedFolderRig(Self.map)
        let id = geteuid() == 0 ? user : geteuid()
        let list = Self.list([("security.selinux", [1, 2, 3]), ("security.b", [7])])
        let answer = try rig.call(
            opcode, FUSE.root, Self.arguments(opcode, "new") + list, user: id, group: id)
        #expect(answer.error == 0)
        #expect(try Self.label(rig, answer.nodeID) == [1, 2, 3])
        #expect(try Self.label(rig, answer.nodeID, "security.b") == [7])
        #expect(answer.entry.user == id)
        if opcode != FUSE.mkdir {
            #expect(answer.entry.links == (opcode == FUSE.tmpfile ? 0 : 1))
            #expect(answer.entry.mode & 0o777 == (opcode == FUSE.tmpfile ? 0o600 : 0o444))
        }
    }

    @Test("that are none leave what is made without", arguments: [list([]), []])
    func none(list: [UInt8]) throws {
        let rig = try SharedFolderRig(Self.map)
        for opcode in [FUSE.create, FUSE.mkdir, FUSE.symlink] {
            let name = "\(opcode)"
            let answer = try rig.call(opcode, FUSE.root, Self.arguments(opcode, name) + list)
            #expect(answer.error == 0)
            #expect(try Self.label(rig, answer.nodeID) == nil)
        }
    }

    @Test("that cannot be set leave nothing behind")
    func refused() throws {
        let rig = try SharedFolderRig(Self.map)
        // A link takes no `user.` attribute.
        #expect(
            try rig.call(
                FUSE.symlink, FUSE.root, Self.arguments(FUSE.symlink, "new") + Self.list()
            ).error == EPERM)
        // More than ext4 and others keep, or than there may be.
        let large = Self.list([("security.x", [UInt8](repeating: 1, count: 65537))])
        for opcode in [FUSE.create, FUSE.mkdir, FUSE.mknod, FUSE.tmpfile] {
            let request = Self.arguments(opcode, "new") + large
            #expect(try rig.call(opcode, FUSE.root, request).error == EINVAL)
        }
        #expect(readFolder(rig.folder.path) == [])
    }

    @Test("are not given to what a host's program puts in the place of what was made")
    func replaced() throws {
        let rig = try SharedFolderRig(Self.map)
        let (new, other) = (rig.folder["new"], rig.folder["other"])
        #expect(unsafe mkdir(other, 0o755) == 0)
        let isOver = Atomic<Bool>(false)
        // As soon as the new file is there, it and the folder have each other's name.
        let swapper = try Core.Thread(name: "swapper") {
            while !isOver.load(ordering: .relaxed) {
                _ = unsafe clinux_rename(AT_FDCWD, new, AT_FDCWD, other, 2)  // RENAME_EXCHANGE
            }
        }
        /// Leaves the folder, under its own name.
        func clear() {
            while readFolder(rig.folder.path).count > 1 {
                for path in [new, other] { _ = unsafe unlink(path) }
            }
            _ = unsafe rename(new, other)
        }
        for _ in 0..<1000 {
            let request = Self.arguments(FUSE.mknod, "new") + Self.list()
            _ = try rig.call(FUSE.mknod, FUSE.root, request)
            clear()
        }
        isOver.store(true, ordering: .relaxed)
        swapper.join()
        clear()
        let folder = try rig.call(FUSE.lookup, FUSE.root, FUSE.text("other"))
        #expect(folder.error == 0)
        #expect(folder.entry.mode & S_IFMT == S_IFDIR)
        #expect(try Self.label(rig, folder.nodeID) == nil)
    }

    @Test("of a file that is there already stay as they are")
    func existing() throws {
        let rig = try SharedFolderRig(Self.map)
        try rig.folder.file("there", [1])
        let request = Self.arguments(FUSE.create, "there") + Self.list()
        let answer = try rig.call(FUSE.create, FUSE.root, request)
        #expect(answer.error == 0)
        #expect(answer.entry.size == 1)
        #expect(try Self.label(rig, answer.nodeID) == nil)
        #expect(readFolder(rig.folder.path) == ["there"])
    }

    private static func raw(_ words: [UInt32], _ rest: [UInt8] = []) -> [UInt8] {
        words.flatMap { littleEndian($0) } + rest
    }

    private static func one(_ name: String, _ value: [UInt8] = [1]) -> [UInt8] {
        list([(name: name, value: value)])
    }

    private static let text = FUSE.text("security.x")

    /// Lists whose sizes, counts and names lie.
    private static let wrong: [[UInt8]] = [
        [1, 2, 3],
        raw([8]),
        raw([0, 0]),
        raw([7, 0]),
        raw([9, 0]),
        raw([UInt32.max, 1]),
        raw([8, 1]),
        raw([8, UInt32.max]),
        raw([16, 1, 0, 0]),
        raw([16, 1, UInt32.max, 0]),
        // No NUL, no value, values that end behind the list, and a second one that is not there.
        raw([26, 1, 1, 0], Array(text.dropLast())),
        raw([27, 1, 1, 0], text),
        raw([27, 1, 1, 0], text + [1]),
        raw([28, 1, 2, 0], text + [1]),
        raw([28, 2, 1, 0], text + [1]),
        one("user.x"), one("security."), one(""), one("trusted.x"), one("security.x", []),
        one("security.capability"),
        one("security." + String(repeating: "x", count: 247)),
        list([(name: "security.x", value: [1]), (name: "system.x", value: [1])]),
        list(Array(repeating: (name: "security.x", value: [1]), count: 32)),
    ]

    @Test("that lie make nothing", arguments: wrong)
    func hostile(list: [UInt8]) throws {
        let rig = try SharedFolderRig(Self.map)
        for opcode in [FUSE.create, FUSE.mkdir, FUSE.mknod, FUSE.symlink, FUSE.tmpfile] {
            let request = Self.arguments(opcode, "new") + list
            #expect(try rig.call(opcode, FUSE.root, request).error != 0)
        }
        #expect(readFolder(rig.folder.path) == [])
        #expect(rig.fileSystem.nodes.count == 0)
        #expect(rig.fileSystem.handles.count == 0)
    }

    @Test("go on with another program only if that has the option")
    func handOver() throws {
        let rig = try SharedFolderRig(Self.map)
        _ = try rig.begin()
        try rig.handOver(Self.map)
        let request = Self.arguments(FUSE.mkdir, "new") + Self.list()
        let answer = try rig.call(FUSE.mkdir, FUSE.root, request)
        #expect(answer.error == 0)
        #expect(try Self.label(rig, answer.nodeID) != nil)
        #expect(throws: VirtioDeviceError.self) { try rig.handOver("xattr=on") }
    }

    @Test("whose names the map forbids make nothing")
    func mapped() throws {
        let rig = try SharedFolderRig(
            "xattr=on,security-label=on,xattrmap=\":bad:client:security.no:::ok:all:::\"")
        let request =
            Self.arguments(FUSE.create, "new") + Self.list([("security.no", [1])])
        #expect(try rig.call(FUSE.create, FUSE.root, request).error == EPERM)
        #expect(readFolder(rig.folder.path) == [])
    }
}
