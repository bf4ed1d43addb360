import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: names") struct NameTests {
    @Test("names that could lead elsewhere are refused by every request", arguments: FUSE.all)
    func escapes(opcode: UInt32) throws {
        let rig = try SharedFolderRig("xattr=on")
        try rig.folder.file("file")
        let file = try rig.node("file")
        for name in ["..", ".", "/etc", "a/b", "../etc", "", "/"] {
            let text = FUSE.text(name)
            let body: [UInt8]
            switch opcode {
            case FUSE.lookup, FUSE.unlink, FUSE.rmdir: body = text
            case FUSE.symlink: body = text + FUSE.text("target")
            case FUSE.mknod: body = littleEndian(0o100644, 0, 0, 0 as UInt32) + text
            case FUSE.mkdir: body = littleEndian(0o755, 0 as UInt32) + text
            case FUSE.create: body = littleEndian(2, 0o644, 0, 0 as UInt32) + text
            case FUSE.link: body = littleEndian(file) + text
            case FUSE.rename: body = littleEndian(FUSE.root) + FUSE.text("file") + text
            case FUSE.rename2:
                body = littleEndian(FUSE.root, 0) + FUSE.text("file") + text
            default: continue
            }
            let error = try rig.call(opcode, FUSE.root, body).error
            #expect(error == (name.isEmpty ? ENOENT : EINVAL), "\(opcode) \(name)")
        }
        #expect(readFolder(rig.folder.path) == ["file"])
    }

    @Test("a name must end within the request, and have at most 255 bytes")
    func lengths() throws {
        let rig = try SharedFolderRig()
        #expect(try rig.call(FUSE.lookup, FUSE.root, Array("file".utf8)).error == EINVAL)
        #expect(try rig.call(FUSE.lookup, FUSE.root, []).error == EINVAL)
        let longest = String(repeating: "n", count: 255)
        try rig.folder.file(longest)
        #expect(try rig.lookUp(longest).error == 0)
        #expect(try rig.lookUp(longest + "n").error == ENAMETOOLONG)
        #expect(try rig.lookUp("nothing").error == ENOENT)
    }

    @Test("links are not followed, wherever they lead")
    func links() throws {
        let rig = try SharedFolderRig()
        for (name, target) in [("out", "/etc/passwd"), ("up", ".."), ("folder", "/etc")] {
            let made = try rig.call(
                FUSE.symlink, FUSE.root, FUSE.text(name) + FUSE.text(target))
            #expect(made.error == 0)
            #expect(made.entry.mode & FUSE.typeMask == FUSE.linkType)
            let node = try rig.node(name)
            #expect(node == made.nodeID)
            #expect(try rig.call(FUSE.readlink, node).bytes == Array(target.utf8))
            #expect(
                try rig.call(FUSE.open, node, littleEndian(0, 0 as UInt32)).error == ELOOP)
            #expect(
                try rig.call(FUSE.opendir, node, littleEndian(0, 0 as UInt32)).error == ENOTDIR)
            #expect(try rig.lookUp("passwd", in: node).error == ENOTDIR)
            #expect(try rig.create(name).error == ELOOP)
            #expect(try rig.setAttributes(node, valid: 8, size: 0).error == EINVAL)
        }
    }

    @Test("a link keeps its own owner and times")
    func linkAttributes() throws {
        let rig = try SharedFolderRig()
        let target = try rig.folder.file("target")
        _ = try rig.call(FUSE.symlink, FUSE.root, FUSE.text("link") + FUSE.text(target))
        let node = try rig.node("link")
        let answer = try rig.setAttributes(node, valid: 1 << 5, mtime: 77)
        #expect(answer.error == 0)
        #expect(answer.attributes(at: 16).mtime == 77)
        #expect(try rig.lookUp("target").entry.mtime != 77)
        #expect(try rig.setAttributes(node, valid: 1, mode: 0o777).error == EOPNOTSUPP)
    }

    @Test("nobody opens a special file on the host")
    func specialFiles() throws {
        let rig = try SharedFolderRig()
        for (name, type) in [("pipe", FUSE.pipe), ("socket", FUSE.socket)] {
            let made = try rig.call(
                FUSE.mknod, FUSE.root,
                littleEndian(type | 0o666, 0, 0, 0) + FUSE.text(name))
            #expect(made.error == 0)
            #expect(made.entry.mode == type | 0o666)
            let node = made.nodeID
            for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
                let body = littleEndian(UInt32(bitPattern: flags), 0)
                #expect(try rig.call(FUSE.open, node, body).error == ENXIO)
                #expect(try rig.create(name, flags).error == ENXIO)
            }
            #expect(try rig.create(name, O_RDWR | O_EXCL).error == EEXIST)
            #expect(try rig.setAttributes(node, valid: 8).error == EINVAL)
            #expect(
                try rig.call(FUSE.syncfs, node, [UInt8](repeating: 0, count: 8)).error == EINVAL)
        }
        // The look-ups of what could not be opened were taken back.
        #expect(rig.fileSystem.nodes.count == 2)
        #expect(rig.fileSystem.handles.count == 0)
    }

    @Test("a file with two names is one file")
    func hardLinks() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("one", [1])
        let folder = try rig.call(
            FUSE.mkdir, FUSE.root, littleEndian(0o755, 0 as UInt32) + FUSE.text("folder"))
        let node = try rig.node("one")
        let link = try rig.call(
            FUSE.link, folder.nodeID, littleEndian(node) + FUSE.text("two"))
        #expect(link.error == 0)
        #expect(link.nodeID == node)
        #expect(link.entry.links == 2)
        #expect(try rig.node("two", in: folder.nodeID) == node)
        #expect(try readFile("\(rig.folder.path)/folder/two") == [1])
        #expect(
            try rig.call(FUSE.link, FUSE.root, littleEndian(FUSE.root) + FUSE.text("x")).error
                == EPERM)
    }

    @Test("files are renamed, exchanged and not replaced, as asked")
    func renames() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("a", [1])
        try rig.folder.file("b", [2])
        let a = try rig.node("a")
        let b = try rig.node("b")
        func rename2(_ flags: UInt32, _ from: String, _ to: String) throws -> Int32 {
            try rig.call(
                FUSE.rename2, FUSE.root,
                littleEndian(FUSE.root) + littleEndian(flags, 0) + FUSE.text(from) + FUSE.text(to)
            ).error
        }
        #expect(try rename2(1, "a", "b") == EEXIST)
        #expect(try rename2(2, "a", "b") == 0)
        #expect(try rig.node("a") == b)
        #expect(try rename2(8, "a", "b") == EINVAL)
        #expect(
            try rig.call(
                FUSE.rename, FUSE.root,
                littleEndian(FUSE.root) + FUSE.text("b") + FUSE.text("c")
            ).error == 0)
        #expect(try rig.node("c") == a)
        #expect(try rig.lookUp("b").error == ENOENT)
        #expect(try readFile(rig.folder["c"]) == [1])
    }

    @Test("folders are made and removed, and only when they are empty")
    func folders() throws {
        let rig = try SharedFolderRig()
        let made = try rig.call(
            FUSE.mkdir, FUSE.root, littleEndian(0o1777, 0 as UInt32) + FUSE.text("folder"))
        #expect(made.entry.mode == FUSE.folder | 0o1777)
        #expect(try rig.create("file", in: made.nodeID).error == 0)
        #expect(try rig.call(FUSE.rmdir, FUSE.root, FUSE.text("folder")).error == ENOTEMPTY)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("folder")).error == EISDIR)
        #expect(try rig.call(FUSE.rmdir, made.nodeID, FUSE.text("file")).error == ENOTDIR)
        #expect(try rig.call(FUSE.unlink, made.nodeID, FUSE.text("file")).error == 0)
        #expect(try rig.call(FUSE.rmdir, FUSE.root, FUSE.text("folder")).error == 0)
        // It is still known, but nothing can be made in it.
        #expect(try rig.create("file", in: made.nodeID).error == ENOENT)
    }

    @Test("a folder is listed whole, in pieces of any size", arguments: [false, true])
    func listing(plus: Bool) throws {
        let rig = try SharedFolderRig()
        let expected = (0..<300).map { "name \($0) " + String(repeating: "x", count: $0 % 100) }
        for name in expected { try rig.folder.file(name) }
        for size in [400, 4096, 1 << 17] {
            let names = try rig.names(size: size, plus: plus)
            #expect(names.count == 302)
            #expect(Set(names) == Set(expected + [".", ".."]))
        }
        #expect(rig.fileSystem.nodes.count == (plus ? 300 : 0))
        #expect(rig.fileSystem.handles.count == 0)
    }

    @Test("entries with attributes count as look-ups; a listing goes on anywhere")
    func entries() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file", [1, 2, 3])
        let handle = try rig.call(FUSE.opendir, FUSE.root, littleEndian(0, 0 as UInt32))
        let body =
            littleEndian(handle[0, UInt64.self], 0) + littleEndian(4096, 0)
            + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32)
        var found: UInt64 = 0
        for _ in 0..<2 {
            let answer = try rig.call(FUSE.readdirplus, FUSE.root, body)
            for place in stride(from: 0, to: answer.bytes.count, by: 160) {
                let name = answer.bytes[place + 152]
                let entry = Answer(error: 0, bytes: Array(answer.bytes[place...]))
                guard name != UInt8(ascii: ".") else {
                    #expect(entry.nodeID == 0)
                    #expect(entry[128, UInt64.self] == rig.fileSystem.nodes.root.key.inode)
                    continue
                }
                #expect(entry.entry.size == 3)
                found = entry.nodeID
            }
        }
        #expect(try rig.node("file") == found)
        rig.fileSystem.nodes.forget(found, 2)
        #expect(rig.fileSystem.nodes.count == 1)
        rig.fileSystem.nodes.forget(found, 1)
        #expect(rig.fileSystem.nodes.count == 0)
        // Too small for a single entry.
        let small =
            littleEndian(handle[0, UInt64.self], 0) + littleEndian(100, 0)
            + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32)
        #expect(try rig.call(FUSE.readdirplus, FUSE.root, small).error == EINVAL)
    }
}
