import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: what options offer") struct AbilityTests {
    private static let isRoot = geteuid() == 0
    private static let writeback: UInt64 = 1 << 16
    private static let dontMask: UInt64 = 1 << 6
    private static let accessLists: UInt64 = 1 << 20
    private static let submounts: UInt64 = 1 << 27
    private static let dropsSetID: UInt64 = 1 << 28

    private func agreed(_ rig: SharedFolderRig, _ flags: UInt64 = .max) throws -> UInt64 {
        let answer = try rig.begin(flags: flags)
        return UInt64(answer[12, UInt32.self])
    }

    @Test("abilities are on offer as the options say")
    func abilities() throws {
        let plain = try agreed(SharedFolderRig())
        #expect(plain & (Self.writeback | Self.accessLists | Self.dontMask) == 0)
        #expect(plain & Self.submounts != 0)
        #expect(plain & Self.dropsSetID != 0)
        let rig = try SharedFolderRig("xattr=on,posix-acl=on,writeback=on,announce-submounts=off")
        let all = Self.writeback | Self.accessLists | Self.dontMask
        #expect(try agreed(rig) & (all | Self.submounts) == all)
        // One is of no use without the other.
        #expect(
            try agreed(rig, .max & ~Self.dontMask) & (Self.accessLists | Self.dontMask) == 0)
    }

    @Test(
        "what cannot be together is refused",
        arguments: ["posix-acl=on", "writeback=on,cache=never", "writeback=on,cache=metadata"])
    func refused(text: String) throws {
        #expect(throws: OptionError.self) {
            try FSOptions(FSOptions.schema.parse("path=/,\(text)"))
        }
    }

    @Test("with a writeback cache, what is open for writing can be read, and is not appended to")
    func writesBack() throws {
        let rig = try SharedFolderRig("writeback=on")
        let made = try rig.create("file", O_WRONLY | O_APPEND)
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        #expect(try rig.write(node, handle, at: 0, [1, 2, 3]).error == 0)
        #expect(try rig.write(node, handle, at: 1, [9]).error == 0)
        #expect(try rig.read(node, handle, at: 0, 10).bytes == [1, 9, 3])
    }

    @Test("the mask is left to the folder's ACL, where it has one")
    func mask() throws {
        let rig = try SharedFolderRig("xattr=on,posix-acl=on", in: "/var/tmp")
        func make(_ name: String) throws -> Answer {
            try rig.call(
                FUSE.mkdir, FUSE.root, littleEndian(0o777, 0o077 as UInt32) + FUSE.text(name))
        }
        #expect(try make("masked").entry.mode & 0o777 == 0o700)
        // Version 2: u::rwx, g::rwx, o::r-x (Linux, <linux/posix_acl_xattr.h>).
        func entry(_ tag: UInt16, _ permissions: UInt16) -> [UInt8] {
            littleEndian(tag, permissions) + littleEndian(UInt32.max)
        }
        let list = littleEndian(2 as UInt32) + entry(1, 7) + entry(4, 7) + entry(0x20, 5)
        let answer = try rig.call(
            FUSE.setxattr, FUSE.root,
            littleEndian(UInt32(list.count), 0) + littleEndian(0, 0 as UInt32)
                + FUSE.text("system.posix_acl_default") + list)
        if answer.error == EOPNOTSUPP { return }
        #expect(answer.error == 0)
        #expect(try make("listed").entry.mode & 0o777 == 0o775)
    }

    @Test("set-ID bits go when the driver says so", arguments: [false, true])
    func setID(isTold: Bool) throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file", mode: 0o755)
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        let flags: UInt32 = isTold ? 4 : 0
        #expect(try rig.setAttributes(node, valid: 1, mode: 0o6755).error == 0)
        let written = try rig.call(
            FUSE.write, node,
            littleEndian(handle, 0) + littleEndian(1, flags) + littleEndian(0 as UInt64)
                + littleEndian(0, 0 as UInt32) + [1])
        #expect(written.error == 0)
        // A process without rights cannot keep them.
        let expected: UInt32 = isTold || !Self.isRoot ? 0o755 : 0o6755
        #expect(try rig.lookUp("file").entry.mode & 0o7777 == expected)
        #expect(try rig.setAttributes(node, valid: 1, mode: 0o6755).error == 0)
        #expect(
            try rig.setAttributes(node, valid: 8 | (isTold ? 1 << 11 : 0), size: 0).error == 0)
        #expect(try rig.lookUp("file").entry.mode & 0o7777 == expected)
    }
}
