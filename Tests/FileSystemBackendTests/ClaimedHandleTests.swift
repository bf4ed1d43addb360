import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

/// By a handle a file is opened wherever it lies in its file system, and whoever brings a state may
/// have made it up.
@Suite(
    "Shared folder: handles in a state of another process",
    .enabled(if: FileHandlesTests.areToBeHad))
struct ClaimedHandleTests {
    private static let options = "inode-file-handles=mandatory,migration-on-error=guest-error"

    private let rig: SharedFolderRig
    /// In the same file system.
    private let outside: TestFolder

    init() throws {
        rig = try SharedFolderRig(Self.options)
        outside = try TestFolder()
    }

    /// A node and an open file of it, as a state has them.
    private func state(
        of fd: Int32, _ place: ClosedNode.Place = .nowhere, in other: SharedFolderRig? = nil
    ) throws -> [UInt8] {
        let status = try FileStatus.of(fd)
        var handle = clinux_file_handle()
        try #require(unsafe clinux_get_handle(fd, &handle) == 0)
        var writer = FolderState.Writer(
            rootInode: (other ?? rig).fileSystem.nodes.root.key.inode, abilities: 0)
        writer.putCount(1)
        writer.put(
            SavedNode(
                lookups: 1, parent: 1, type: status.type, inode: status.inode,
                isOnOtherMount: false, seconds: status.btime, nanoseconds: status.btime_ns,
                place: place, handle: handle), generation: 1)
        writer.putCount(1)
        writer.put(
            SavedFile(
                nodeID: 1 << 32, kind: CLINUX_HANDLE_FILE, flags: O_RDONLY, lockOwner: .none,
                held: HeldLocks()), generation: 1)
        writer.putCount(0)
        return writer.bytes
    }

    private func opened(_ path: String, _ flags: Int32 = CLINUX_O_PATH | O_NOFOLLOW) -> SharedFD {
        SharedFD(owning: unsafe open(path, flags))
    }

    /// Goes on with the state; the errors of GETATTR and of READ.
    private func errors(_ state: [UInt8]) throws -> [Int32] {
        rig.device.reset()
        try rig.device.loadState(state)
        for index in rig.lanes.indices { try rig.start(index) }
        return [
            try rig.call(FUSE.getattr, 1 << 32, littleEndian(0, 0, 0, 0)).error,
            try rig.read(1 << 32, 1 << 32, at: 0, 10).error,
        ]
    }

    @Test("files in the folder are found, wherever they are")
    func inside() throws {
        #expect(unsafe mkdir(rig.folder["a"], 0o755) == 0)
        #expect(unsafe mkdir(rig.folder["a/b"], 0o755) == 0)
        let path = try rig.folder.file("a/b/file", [1])
        let file = opened(path)
        #expect(try errors(state(of: file.rawValue)) == [0, 0])
        #expect(unsafe rename(path, rig.folder["moved"]) == 0)
        #expect(try errors(state(of: file.rawValue)) == [0, 0])
    }

    @Test("those outside are not", arguments: [false, true])
    func outsideOfIt(isFolder: Bool) throws {
        let path = outside["secret"]
        if isFolder {
            #expect(unsafe mkdir(path, 0o755) == 0)
        } else {
            try outside.file("secret", [1])
        }
        let file = opened(path)
        // Also if the same path leads to a file in the folder, as the kernel says it of one that
        // lies outside a mount.
        for isDecoyed in [false, true] {
            if isDecoyed {
                var name = ""
                for part in outside.path.split(separator: "/") {
                    name += (name.isEmpty ? "" : "/") + part
                    #expect(unsafe mkdir(rig.folder[name], 0o755) == 0)
                }
                try rig.folder.file("\(name)/secret", [2])
                try rig.folder.file("secret", [2])
            }
            #expect(try errors(state(of: file.rawValue)) == [ESTALE, ESTALE])
            // A name that leads to another file is no help.
            let name = ClosedNode.Place.name("secret".utf8CString.map { $0 })
            #expect(try errors(state(of: file.rawValue, name)) == [ESTALE, ESTALE])
        }
        let lookUp = try rig.call(FUSE.lookup, 1 << 32, FUSE.text("x"))
        #expect(lookUp.error == ESTALE)
        if isFolder { _ = unsafe rmdir(path) }
    }

    @Test("nor are those without a name, of which nothing says where they were")
    func deleted() throws {
        for folder in [outside, rig.folder] {
            let path = try folder.file("deleted", [1])
            let file = opened(path, O_RDONLY)
            #expect(unsafe unlink(path) == 0)
            // What the kernel calls it may be another file's name.
            try rig.folder.file("deleted (deleted)", [2])
            #expect(try errors(state(of: file.rawValue)) == [ESTALE, ESTALE])
        }
    }

    @Test("unless whoever brings the state is trusted")
    func deletedTrusted() throws {
        let rig = try SharedFolderRig("inode-file-handles=mandatory,migration-mode=file-handles")
        let made = try rig.create("file", O_RDWR)
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        #expect(try rig.write(node, handle, at: 0, [1]).error == 0)
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file")).error == 0)
        for round in 1...2 {
            try rig.handOver()
            #expect(try rig.read(node, handle, at: 0, 1).bytes == [UInt8(round)])
            #expect(try rig.write(node, handle, at: 0, [UInt8(round + 1)]).error == 0)
        }
        // What has a name elsewhere is none of the guest's all the same.
        let secret = opened(try outside.file("secret", [1]))
        let refused = try state(of: secret.rawValue, in: rig)
        rig.device.reset()
        #expect(throws: VirtioDeviceError.self) { try rig.device.loadState(refused) }
        #expect(rig.fileSystem.nodes.count == 0 && rig.fileSystem.handles.count == 0)
    }

    @Test("one that has a name outside as well is found by that in the folder")
    func linked() throws {
        let path = try outside.file("one", [1])
        #expect(unsafe link(path, rig.folder["other"]) == 0)
        let file = opened(path)
        let name = ClosedNode.Place.name("other".utf8CString.map { $0 })
        #expect(try errors(state(of: file.rawValue, name)) == [0, 0])
    }

    @Test("what goes from process to process is found")
    func handOver() throws {
        let rig = try SharedFolderRig(Self.options + ",rlimit-nofile=128")
        #expect(unsafe mkdir(rig.folder["a"], 0o755) == 0)
        #expect(unsafe mkdir(rig.folder["a/b"], 0o755) == 0)
        let names = (0..<200).map { "f\($0)" }
        for name in names { try rig.folder.file(name, Array(name.utf8)) }
        let nodes = try names.map { try rig.node($0) }
        // Some of them are closed by now.
        for name in names[..<40] {
            #expect(unsafe rename(rig.folder[name], rig.folder["a/b/\(name)"]) == 0)
        }
        for _ in 0..<2 {
            try rig.handOver(Self.options + ",rlimit-nofile=128")
            for (node, name) in zip(nodes, names) {
                let handle = try rig.open(node, O_RDONLY)
                #expect(try rig.read(node, handle, at: 0, 10).bytes == Array(name.utf8))
                _ = try rig.call(FUSE.release, node, littleEndian(handle, 0, 0))
            }
        }
    }
}
