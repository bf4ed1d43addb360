import CLinux
import Core
import Glibc
import TestSupport
import Testing
import VhostUser

@testable import FileSystemBackend

@Suite("Shared folder: what does not go to another process") struct StateRefusalTests {
    /// What another program of the host would meet.
    private func isLocked(_ path: String) -> Bool {
        let file = unsafe open(path, O_RDWR)
        defer { close(file) }
        return flock(file, LOCK_EX | LOCK_NB) != 0
    }

    @Test("a state that is too large is refused before anything is given up")
    func tooLarge() throws {
        let rig = try SharedFolderRig("flock=on")
        for index in 0..<50 { try rig.folder.file("file\(index)", []) }
        let nodes = try (0..<50).map { try rig.node("file\($0)") }
        let handle = try rig.open(nodes[0], O_RDWR)
        let lock = littleEndian(handle, 1, 0, 0) + littleEndian(1, 1, 1, 0 as UInt32)
        #expect(try rig.call(FUSE.setlk, nodes[0], lock).error == 0)
        let path = rig.folder["file0"]
        #expect(isLocked(path))
        rig.device.reset()
        let size = try rig.device.saveState().count
        // One byte less, and at the very beginning, among the nodes.
        for limit in [size - 1, 100, 0] {
            for index in rig.lanes.indices { try rig.start(index) }
            #expect(isLocked(path))
            rig.device.reset()
            rig.device.stateLimit = limit
            #expect(throws: VirtioDeviceError.self) { try rig.device.saveState() }
            #expect(isLocked(path), "given back for nobody")
        }
        for index in rig.lanes.indices { try rig.start(index) }
        #expect(try rig.write(nodes[0], handle, at: 0, [1]).error == 0)
        #expect(try rig.node("file7") == nodes[7])
        rig.device.stateLimit = size
        try rig.handOver("flock=on")
        #expect(try rig.write(nodes[0], handle, at: 1, [2]).error == 0)
        #expect(try readFile(path) == [1, 2])
    }

    @Test(
        "a file that its user may not open is stale, and its mode is never another one",
        .enabled(if: geteuid() == 0))
    func mode() throws {
        let rig = try SharedFolderRig("migration-on-error=guest-error")
        #expect(unsafe chmod(rig.folder.path, 0o755) == 0)
        // As git makes its objects.
        let made = try rig.create("file", O_RDWR, mode: 0o444)
        let path = rig.folder["file"]
        #expect(unsafe chown(path, 1000, 1000) == 0)
        let node = made.nodeID
        let reading = try rig.open(node, O_RDONLY)
        let before = try status(path)
        // This thread makes the one that opens the files: the file's own user, who is not root.
        defer { Self.becomeFileUser(0) }
        try rig.handOver { Self.becomeFileUser(1000) }
        Self.becomeFileUser(0)
        #expect(try rig.write(node, made[128, UInt64.self], at: 0, [1]).error == ESTALE)
        #expect(try rig.read(node, reading, at: 0, 1).error == 0)
        let after = try status(path)
        #expect(after.mode & 0o7777 == 0o444)
        #expect(after.ctime == before.ctime && after.ctime_ns == before.ctime_ns)
    }

    /// Makes this thread alone another user where files are concerned, without a right to pass over
    /// modes.
    private static func becomeFileUser(_ user: UInt32) {
        typealias Call = @convention(c) (UInt32) -> Int32
        // SAFETY: the C library has these functions, of that type (setfsuid(2)).
        for name in ["setfsgid", "setfsuid"] {
            let function = unsafe dlsym(nil, name)
            _ = unsafe unsafeBitCast(function, to: Call.self)(user)
        }
    }

    private func status(_ path: String) throws -> clinux_file_status {
        let fd = OwnedFD(owning: unsafe open(path, CLINUX_O_PATH))
        return try FileStatus.of(fd.rawValue)
    }
}
