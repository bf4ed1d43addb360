import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: helpers of a queue") struct HelperTests {
    private static let size = 256 << 20

    /// A request that takes long: it copies a file in memory.
    private func postCopy(_ rig: SharedFolderRig, isLast: Bool = true) throws -> DriverBuffer {
        try rig.folder.file("from", [1])
        #expect(unsafe truncate(rig.folder["from"], off_t(Self.size)) == 0)
        let from = try rig.node("from")
        let source = try rig.open(from, O_RDONLY)
        let to = try rig.create("to")
        return try rig.lanes[1].post(
            rig.lanes[1].bytes(
                FUSE.copyFileRange, from,
                littleEndian(source, 0, to.nodeID, to[128, UInt64.self], 0, UInt64(Self.size), 0)),
            isLast: isLast)
    }

    /// How much has been copied.
    private func copiedSize(_ rig: SharedFolderRig) -> Int {
        var status = stat()
        #expect(unsafe stat(rig.folder["to"], &status) == 0)
        return Int(status.st_size)
    }

    @Test("what takes long does not hold up what comes after it", arguments: [0, 2])
    func overtaken(helpers: Int) throws {
        let rig = try SharedFolderRig("thread-pool-size=\(helpers)", in: "/dev/shm")
        // Both are there at once.
        let slow = try postCopy(rig, isLast: false)
        let quick = try rig.lanes[1].post(
            rig.lanes[1].bytes(FUSE.getattr, FUSE.root, littleEndian(0, 0, 0, 0)))
        let order = try (0..<2).map { _ in
            try #require(try rig.lanes[1].driver.awaitUsed(rig.lanes[1].call)).token
        }
        let expected = helpers == 0 ? [slow, quick] : [quick, slow]
        #expect(order == expected.map(\.address.rawValue))
        #expect(copiedSize(rig) == Self.size)
    }

    @Test("a queue stops when its helpers are done")
    func stopped() throws {
        let rig = try SharedFolderRig("thread-pool-size=1", in: "/dev/shm")
        let slow = try postCopy(rig)
        let deadline = Clock.monotonic() + 10_000_000_000
        while copiedSize(rig) == 0, Clock.monotonic() < deadline { usleep(500) }
        // It has been taken.
        _ = rig.device.stopQueue(1)
        #expect(try rig.lanes[1].answer(to: slow, milliseconds: 1000) == 0)
        try rig.start(1)
        #expect(try rig.node("to") != 0)
    }

    @Test("what helpers do is done as it would be without them")
    func same() throws {
        let rig = try SharedFolderRig("thread-pool-size=2")
        let made = try rig.create("file")
        let (node, handle) = (made.nodeID, made[128, UInt64.self])
        let data = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        #expect(try rig.write(node, handle, at: 0, data).error == 0)
        let sync = littleEndian(handle) + littleEndian(0, 0 as UInt32)
        #expect(try rig.call(FUSE.fsync, node, sync).error == 0)
        #expect(try rig.call(FUSE.fsync, node, littleEndian(handle + 1, 0)).error == EBADF)
        // What is not in memory is read by a helper.
        let fd = unsafe open(rig.folder["file"], O_RDONLY)
        for cuts in [[], [16, 4112, 50_000]] {
            #expect(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0)
            let answer = try rig.read(node, handle, at: 10, 80_000, cuts: cuts)
            #expect(answer.bytes == Array(data[10..<80_010]))
        }
        #expect(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0)
        close(fd)
        let end = try rig.read(node, handle, at: 90_000, 50_000)
        #expect(end.bytes == Array(data[90_000...]))
        #expect(try rig.read(node, handle, at: 100_000, 10).bytes == [])
    }
}
