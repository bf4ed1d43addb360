import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: more files than descriptors") struct ManyFilesTests {
    /// So many nodes may be open (FileSystem.swift).
    private static let openLimit = 80
    private static let names = (0..<300).map { "f\($0)" }

    private let rig: SharedFolderRig

    init() throws { self.init(try SharedFolderRig("rlimit-nofile=128", isKept: true)) }

    private init(_ rig: SharedFolderRig) { self.rig = rig }

    private var openCount: Int { rig.fileSystem.nodes.state.withLock { $0.openCount } }

    /// Files in folders, each with its name in it.
    private func makeTree() throws -> [UInt64] {
        for folder in ["a", "a/b"] { _ = unsafe mkdir(rig.folder[folder], 0o755) }
        let a = try rig.node("a")
        let b = try rig.node("b", in: a)
        return try Self.names.enumerated().map { index, name in
            let (path, parent) = [("", FUSE.root), ("a/", a), ("a/b/", b)][index % 3]
            try rig.folder.file(path + name, Array(name.utf8))
            return try rig.node(name, in: parent)
        }
    }

    private func content(_ node: UInt64) throws -> String {
        let answer = try rig.call(FUSE.open, node, littleEndian(0, 0 as UInt32))
        guard answer.error == 0 else { return "errno \(answer.error)" }
        let handle = answer[0, UInt64.self]
        let bytes = try rig.read(node, handle, at: 0, 100).bytes
        _ = try rig.call(FUSE.release, node, littleEndian(handle, 0, 0))
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test("all can be worked with, and few are open")
    func all() throws {
        let nodes = try makeTree()
        #expect(rig.fileSystem.nodes.count == 302)
        #expect(openCount <= Self.openLimit)
        for (node, name) in zip(nodes, Self.names) { #expect(try content(node) == name) }
        #expect(openCount <= Self.openLimit)
        // Each is known by one number.
        #expect(try rig.node("f0") == nodes[0])
        #expect(rig.fileSystem.nodes.count == 302)
        for node in nodes { rig.fileSystem.nodes.forget(node, 1) }
        rig.fileSystem.nodes.forget(nodes[0], 1)
        #expect(rig.fileSystem.nodes.count == 2)
        #expect(openCount + rig.fileSystem.nodes.closedCount.load(ordering: .relaxed) == 2)
    }

    @Test("they are still known when the process has been killed")
    func killed() throws {
        let nodes = try makeTree()
        for _ in 0..<2 {
            try rig.replace()
            #expect(rig.fileSystem.nodes.count == 302)
            #expect(openCount <= Self.openLimit)
            for (node, name) in zip(nodes, Self.names) { #expect(try content(node) == name) }
        }
    }

    @Test("names change, and the files stay what they are")
    func renamed() throws {
        let nodes = try makeTree()
        let a = try rig.node("a")
        // A folder with files that are closed.
        let move = littleEndian(FUSE.root) + FUSE.text("a") + FUSE.text("moved")
        #expect(try rig.call(FUSE.rename, FUSE.root, move).error == 0)
        #expect(try rig.node("moved") == a)
        for index in stride(from: 0, to: 60, by: 3) {
            let name = Self.names[index]
            let rename = littleEndian(a) + FUSE.text(name) + FUSE.text("new\(index)")
            #expect(try rig.call(FUSE.rename, FUSE.root, rename).error == 0)
        }
        for index in stride(from: 60, to: 120, by: 3) {
            #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text(Self.names[index])).error == 0)
        }
        // One in the place of another.
        let replace = littleEndian(FUSE.root) + FUSE.text("f120") + FUSE.text("f123")
        #expect(try rig.call(FUSE.rename, FUSE.root, replace).error == 0)
        for (index, node) in nodes.enumerated() {
            // Also those without a name: the driver may have them open.
            #expect(try content(node) == Self.names[index])
        }
        #expect(try rig.node("f123") == nodes[120])
        #expect(try rig.node("new0", in: a) == nodes[0])
    }

    @Test("a file that the host has replaced is another one")
    func replaced() throws {
        let nodes = try makeTree()
        // The first ones are closed.
        let path = rig.folder["f0"]
        _ = unsafe unlink(path)
        try rig.folder.file("f0", Array("other".utf8))
        #expect(try content(nodes[0]) == "errno \(ESTALE)")
        let new = try rig.node("f0")
        #expect(new != nodes[0])
        #expect(try content(new) == "other")
        // What it has moved is found again by its new name.
        #expect(unsafe rename(rig.folder["f3"], rig.folder["f3-moved"]) == 0)
        #expect(try content(nodes[3]) == "errno \(ESTALE)")
        #expect(try rig.node("f3-moved") == nodes[3])
        #expect(try content(nodes[3]) == "f3")
    }

    @Test("what is open has its own bound")
    func handles() throws {
        try rig.folder.file("file", [1])
        let node = try rig.node("file")
        var count = 0
        while try rig.call(FUSE.open, node, littleEndian(0, 0 as UInt32)).error == 0 {
            count += 1
            try #require(count < 200)
        }
        #expect(try rig.call(FUSE.open, node, littleEndian(0, 0 as UInt32)).error == ENFILE)
        #expect(count == 16)
    }

    @Test(
        "by its handle, a file is found wherever the host has moved it",
        .enabled(if: FileHandlesTests.areToBeHad))
    func handlesStay() throws {
        let rig = try SharedFolderRig(
            "rlimit-nofile=128,inode-file-handles=mandatory", isKept: true)
        let test = ManyFilesTests(rig)
        let nodes = try test.makeTree()
        #expect(test.openCount <= Self.openLimit)
        #expect(unsafe rename(rig.folder["f3"], rig.folder["a/f3-moved"]) == 0)
        #expect(unsafe rename(rig.folder["a/b"], rig.folder["b-moved"]) == 0)
        #expect(unsafe unlink(rig.folder["f0"]) == 0)
        for round in 0..<2 {
            if round > 0 { try rig.replace() }
            #expect(try test.content(nodes[0]) == "errno \(ESTALE)")
            for index in 1..<nodes.count {
                #expect(try test.content(nodes[index]) == Self.names[index], "round \(round)")
            }
            #expect(test.openCount <= Self.openLimit)
        }
    }
}
