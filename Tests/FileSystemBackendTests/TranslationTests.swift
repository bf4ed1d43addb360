import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: other names and users on the host") struct TranslationTests {
    // MARK: Extended attributes

    /// A file in a shared folder, and what can be done with its attributes.
    private struct Attributed {
        let rig: SharedFolderRig
        let node: UInt64

        func set(_ name: String, _ value: [UInt8] = [1]) throws -> Int32 {
            try rig.call(
                FUSE.setxattr, node,
                littleEndian(UInt32(value.count), 0, 0, 0) + FUSE.text(name) + value
            ).error
        }

        func get(_ name: String) throws -> Answer {
            try rig.call(FUSE.getxattr, node, littleEndian(100, 0 as UInt32) + FUSE.text(name))
        }

        func list(room: UInt32 = 4096) throws -> Answer {
            try rig.call(FUSE.listxattr, node, littleEndian(room, 0))
        }

        func remove(_ name: String) throws -> Int32 {
            try rig.call(FUSE.removexattr, node, FUSE.text(name)).error
        }

        var names: Set<String> {
            get throws {
                let names = try list().bytes.split(separator: 0)
                return Set(names.map { String(decoding: $0, as: UTF8.self) })
            }
        }
    }

    /// A file, and the same without rules, as the host has it.
    private func share(_ rules: String) throws -> (file: Attributed, host: Attributed) {
        let outer = try SharedFolderRig("xattr=on")
        let rig = try SharedFolderRig("xattr=on,xattrmap=\"\(rules)\"", in: outer.folder.path)
        let node = try rig.create("file").nodeID
        let name = try #require(readFolder(outer.folder.path).first)
        let hostNode = try outer.node("file", in: outer.node(name))
        return (Attributed(rig: rig, node: node), Attributed(rig: outer, node: hostNode))
    }

    @Test(
        "all attributes are elsewhere, and the host's own are out of reach",
        arguments: [":prefix:all::user.virtiofs.::bad:all:::", "|map||user.virtiofs.|"])
    func prefixed(rules: String) throws {
        let (file, host) = try share(rules)
        #expect(try host.set("user.own") == 0)
        #expect(try file.set("trusted.a", [1, 2]) == 0)
        #expect(try file.set("user.b") == 0)
        let known: Set = ["trusted.a", "user.b"]
        #expect(
            try host.names == ["user.own", "user.virtiofs.trusted.a", "user.virtiofs.user.b"])
        #expect(try file.names == known)
        let size = try file.list(room: 0)[0, UInt32.self]
        #expect(try size == UInt32(file.list().bytes.count))
        #expect(try file.list(room: size).bytes.count == Int(size))
        #expect(try file.list(room: size - 1).error == ERANGE)
        #expect(try file.get("trusted.a").bytes == [1, 2])
        #expect(try file.get("user.own").error == ENODATA)
        #expect(try file.set("user." + String(repeating: "n", count: 250)) == ERANGE)
        #expect(try file.remove("trusted.a") == 0)
        #expect(try file.names == ["user.b"])
    }

    @Test(
        "some attributes are elsewhere, and others are the host's",
        arguments: [
            ":map:trusted.:user.virtiofs.:",
            """
            /prefix/all/trusted./user.virtiofs./
              /bad/server//trusted./
              /bad/client/user.virtiofs.//
            :ok:all:::
            """,
        ])
    func some(rules: String) throws {
        let (file, host) = try share(rules)
        #expect(try file.set("trusted.a") == 0)
        #expect(try file.set("user.b") == 0)
        #expect(try file.set("user.virtiofs.x") == EPERM)
        #expect(try file.remove("user.virtiofs.trusted.a") == EPERM)
        #expect(try file.get("user.virtiofs.trusted.a").error == ENODATA)
        #expect(try host.names == ["user.virtiofs.trusted.a", "user.b"])
        #expect(try file.names == ["trusted.a", "user.b"])
    }

    @Test("what is not supported is not there")
    func unsupported() throws {
        let (file, _) = try share(":unsupported:all:security.:security.::ok:all:::")
        #expect(try file.set("security.x") == EOPNOTSUPP)
        #expect(try file.get("security.x").error == EOPNOTSUPP)
        #expect(try file.set("user.a") == 0)
        #expect(try file.names == ["user.a"])
        // No rule is about the rest.
        let (other, _) = try share(":ok:client:user.a::")
        #expect(try other.set("user.a") == 0)
        #expect(try other.set("user.b") == EPERM)
        #expect(try other.names.isEmpty)
    }

    @Test(
        "rules that make no sense are refused",
        arguments: [
            "", " ", ":", ":bad", ":bad:all::", ":bad:all::: x", ":wrong:all:::", ":ok:some:::",
            ":map:a:b", ":map::b::ok:all:::",
        ])
    func refusedMaps(rules: String) {
        #expect(throws: OptionError.self) {
            try FSOptions(
                FSOptions.schema.parse("path=/,xattr=on,xattrmap=\"\(rules)\""))
        }
    }

    // MARK: Users

    private static let isRoot = geteuid() == 0

    private func owner(_ path: String) throws -> [UInt32] {
        var status = stat()
        try #require(unsafe stat(path, &status) == 0)
        return [status.st_uid, status.st_gid]
    }

    @Test("a guest's users are others on the host", .enabled(if: isRoot))
    func users() throws {
        let rig = try SharedFolderRig(
            "translate-uid=[map:0:1000:10,squash-guest:10:5000:90,forbid-guest:100:1],"
                + "translate-gid=map:0:2000:10")
        let made = try rig.create("file", user: 3, group: 4)
        #expect(made.entry.user == 3 && made.entry.group == 4)
        #expect(try owner(rig.folder["file"]) == [1003, 2004])
        // As root of the guest.
        #expect(try rig.create("root").entry.user == 0)
        #expect(try owner(rig.folder["root"]) == [1000, 2000])
        // Many are one, which the guest sees as it is.
        #expect(try rig.create("many", user: 77, group: 77).entry.user == 5000)
        #expect(try owner(rig.folder["many"]) == [5000, 77])
        #expect(try rig.create("none", user: 100).error == EPERM)
        #expect(readFolder(rig.folder.path).sorted() == ["file", "many", "root"])
        let changed = try rig.setAttributes(made.nodeID, valid: 1 << 1 | 1 << 2, user: 9, group: 10)
        #expect(changed.attributes(at: 16).user == 9 && changed.attributes(at: 16).group == 10)
        #expect(try owner(rig.folder["file"]) == [1009, 10])
        let only = try rig.setAttributes(made.nodeID, valid: 1 << 2, group: 1)
        #expect(only.attributes(at: 16).user == 9 && only.attributes(at: 16).group == 1)
        #expect(
            try rig.setAttributes(made.nodeID, valid: 1 << 1, user: 100).error == EPERM)
        let status = try rig.call(FUSE.statx, made.nodeID, [UInt8](repeating: 0, count: 24))
        // uid, gid of `fuse_statx`
        #expect(status[32 + 20, UInt32.self] == 9 && status[32 + 24, UInt32.self] == 1)
    }

    @Test("what a guest sees need not be what it makes", .enabled(if: isRoot))
    func oneWay() throws {
        let rig = try SharedFolderRig(
            "translate-uid=[squash-host:1000:7:1000,guest:1:3000:1,host:3000:8:1]")
        try rig.folder.file("a", [])
        #expect(unsafe chown(rig.folder["a"], 1500, 0) == 0)
        #expect(try rig.lookUp("a").entry.user == 7)
        #expect(try rig.create("b", user: 1).entry.user == 8)
        #expect(try owner(rig.folder["b"])[0] == 3000)
        #expect(try rig.create("c", user: 1500).entry.user == 7)
        #expect(try owner(rig.folder["c"])[0] == 1500)
    }

    @Test(
        "rules that make no sense are refused",
        arguments: [
            "", "map", "map:0:0", "map:0:0:0", "map:0:0:1:1", "map:-1:0:1", "map:0:+1:1",
            "map:4294967290:0:6", "map:0:4294967290:6", "other:0:0:1", "forbid-guest:0:0",
            "forbid-guest:0:0:1", "[map:0:1000:10,guest:9:0:1]", "[map:0:1000:10,host:1009:0:1]",
            "map:0:0:4294967296",
        ])
    func refusedIDs(rules: String) {
        #expect(throws: OptionError.self) {
            try FSOptions(FSOptions.schema.parse("path=/,translate-uid=\(rules)"))
        }
    }

    @Test("ACLs name users, who cannot be others")
    func accessLists() {
        #expect(throws: OptionError.self) {
            try FSOptions(
                FSOptions.schema.parse(
                    "path=/,xattr=on,posix-acl=on,translate-gid=map:0:1000:1"))
        }
    }
}
