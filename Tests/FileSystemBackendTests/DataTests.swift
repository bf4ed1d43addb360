import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import FileSystemBackend

@Suite("Shared folder: data") struct DataTests {
    static func pattern(_ count: Int) -> [UInt8] {
        var random = SeededGenerator(3)
        return (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    @Test(
        "what is written is read, however the buffers are cut", arguments: SessionTests.rings,
        [[], [40], [80], [1, 16, 17, 39, 41, 79, 81, 5000, 65536]])
    func roundTrip(ring: UInt64, cuts: [Int]) throws {
        let rig = try SharedFolderRig(ring: ring)
        let made = try rig.create("file")
        #expect(made.error == 0)
        let handle = made[128, UInt64.self]
        let data = Self.pattern(100_000)
        let written = try rig.write(made.nodeID, handle, at: 3, data, cuts: cuts)
        #expect(written.error == 0)
        #expect(written[0, UInt32.self] == 100_000)
        #expect(try readFile(rig.folder["file"]) == [0, 0, 0] + data)
        let read = try rig.read(made.nodeID, handle, at: 1, 110_000, cuts: cuts)
        #expect(read.bytes == [0, 0] + data)
        #expect(try rig.read(made.nodeID, handle, at: 100_003, 10).bytes.isEmpty)
        // More is asked for than there is room, and the other way round.
        #expect(
            try rig.read(made.nodeID, handle, at: 3, 1000, room: 10).bytes == Array(data[..<10]))
        #expect(
            try rig.read(made.nodeID, handle, at: 3, 10, room: 1000).bytes == Array(data[..<10]))
    }

    @Test("a size that is not the data's, or an offset without sense, writes nothing")
    func wrongWrites() throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file")
        let handle = made[128, UInt64.self]
        func write(_ size: UInt32, _ offset: UInt64, _ data: [UInt8]) throws -> Int32 {
            try rig.call(
                FUSE.write, made.nodeID,
                littleEndian(handle, offset) + littleEndian(size, 0)
                    + littleEndian(0 as UInt64) + littleEndian(0, 0 as UInt32) + data
            ).error
        }
        #expect(try write(10, 0, [1, 2, 3]) == EINVAL)
        #expect(try write(2, 0, [1, 2, 3]) == EINVAL)
        #expect(try write(.max, 0, [1, 2, 3]) == EINVAL)
        #expect(try write(3, .max, [1, 2, 3]) == EINVAL)
        #expect(try write(3, 1 << 62, [1, 2, 3]) == EFBIG)
        #expect(try write(0, 0, []) == 0)
        #expect(try readFile(rig.folder["file"]).isEmpty)
    }

    @Test("a handle is good for its own file, in its own mode, until it is released")
    func handles() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("one", [1])
        try rig.folder.file("two", [2])
        let (one, two) = (try rig.node("one"), try rig.node("two"))
        let handle = try rig.open(one, O_RDONLY)
        #expect(try rig.read(one, handle, at: 0, 9).bytes == [1])
        #expect(try rig.read(two, handle, at: 0, 9).error == EBADF)
        #expect(try rig.write(one, handle, at: 0, [3]).error == EBADF)
        let folder = try rig.call(FUSE.opendir, FUSE.root, littleEndian(0, 0 as UInt32))
        #expect(try rig.read(FUSE.root, folder[0, UInt64.self], at: 0, 9).error == EBADF)
        #expect(
            try rig.call(FUSE.readdir, one, littleEndian(handle, 0, 4096, 0, 0)).error == EBADF)
        _ = try rig.call(FUSE.release, one, littleEndian(handle, 0, 0))
        #expect(try rig.read(one, handle, at: 0, 9).error == EBADF)
        let next = try rig.open(one, O_RDONLY)
        #expect(next != handle)
        #expect(try rig.read(one, handle, at: 0, 9).error == EBADF)
        for wrong: UInt64 in [0, 1, .max, 1 << 32, 7 << 32] where wrong != next {
            #expect(try rig.read(one, wrong, at: 0, 9).error == EBADF)
        }
    }

    @Test("a file without a name goes on until it is released")
    func unlinked() throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file")
        let handle = made[128, UInt64.self]
        #expect(try rig.call(FUSE.unlink, FUSE.root, FUSE.text("file")).error == 0)
        #expect(try rig.write(made.nodeID, handle, at: 0, [7]).error == 0)
        #expect(try rig.read(made.nodeID, handle, at: 0, 9).bytes == [7])
        let second = try rig.open(made.nodeID, O_RDONLY)
        #expect(try rig.read(made.nodeID, second, at: 0, 9).bytes == [7])
        let temporary = try rig.call(
            FUSE.tmpfile, FUSE.root,
            littleEndian(UInt32(bitPattern: O_RDWR), 0o600, 0, 0) + FUSE.text("#1"))
        #expect(temporary.error == 0)
        #expect(temporary.entry.links == 0)
        let node = temporary.nodeID
        #expect(try rig.write(node, temporary[128, UInt64.self], at: 0, [8]).error == 0)
        #expect(readFolder(rig.folder.path).isEmpty)
        let named = try rig.call(FUSE.link, FUSE.root, littleEndian(node) + FUSE.text("named"))
        #expect(named.error == 0)
        #expect(try readFile(rig.folder["named"]) == [8])
    }

    @Test("files are created, truncated and appended to, as their flags say")
    func flags() throws {
        let rig = try SharedFolderRig()
        try rig.folder.file("file", [1, 2, 3])
        #expect(try rig.create("file", O_RDWR | O_EXCL).error == EEXIST)
        let there = try rig.create("file", O_RDWR)
        #expect(there.entry.size == 3)
        #expect(there.nodeID == (try rig.node("file")))
        let appending = try rig.open(there.nodeID, O_WRONLY | O_APPEND)
        #expect(try rig.write(there.nodeID, appending, at: 0, [4]).error == 0)
        #expect(try readFile(rig.folder["file"]) == [1, 2, 3, 4])
        _ = try rig.open(there.nodeID, O_WRONLY | O_TRUNC)
        #expect(try readFile(rig.folder["file"]).isEmpty)
        // Flags that are the guest's business or nobody's.
        _ = try rig.open(there.nodeID, O_RDONLY | O_CREAT | O_EXCL | O_NONBLOCK | O_DIRECTORY)
    }

    @Test("a new size is zeroes, through a handle or without")
    func sizes() throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file")
        let handle = made[128, UInt64.self]
        _ = try rig.write(made.nodeID, handle, at: 0, [1, 2, 3])
        #expect(try rig.setAttributes(made.nodeID, valid: 8, size: 2).error == 0)
        let longer = try rig.setAttributes(made.nodeID, valid: 8 | 1 << 6, handle: handle, size: 4)
        #expect(longer.attributes(at: 16).size == 4)
        #expect(try readFile(rig.folder["file"]) == [1, 2, 0, 0])
        #expect(try rig.setAttributes(made.nodeID, valid: 8, size: .max).error == EFBIG)
        #expect(try rig.setAttributes(made.nodeID, valid: 8 | 1 << 6, handle: 99).error == EBADF)
        #expect(try rig.setAttributes(FUSE.root, valid: 8, size: 0).error == EINVAL)
    }

    @Test("space is allocated and given back, holes are found, and ranges copied")
    func ranges() throws {
        let rig = try SharedFolderRig(in: "/dev/shm")
        let made = try rig.create("file")
        let handle = made[128, UInt64.self]
        func allocate(_ mode: UInt32, _ offset: UInt64, _ length: UInt64) throws -> Int32 {
            try rig.call(
                FUSE.fallocate, made.nodeID,
                littleEndian(handle, offset, length) + littleEndian(mode, 0)
            ).error
        }
        _ = try rig.write(made.nodeID, handle, at: 0, [UInt8](repeating: 1, count: 20000))
        #expect(try allocate(3, 4096, 4096) == 0)
        #expect(try allocate(0, 0, 40000) == 0)
        #expect(try allocate(.max, 0, 1) == EOPNOTSUPP)
        #expect(try allocate(0, .max, 1) == EINVAL)
        #expect(
            try rig.call(FUSE.getattr, made.nodeID, littleEndian(0, 0 as UInt64))
                .attributes(at: 16).size == 40000)
        _ = try rig.setAttributes(made.nodeID, valid: 8, size: 20000)
        _ = try allocate(3, 4096, 4096)
        func seek(_ offset: UInt64, _ whence: UInt32) throws -> Answer {
            try rig.call(
                FUSE.lseek, made.nodeID, littleEndian(handle, offset) + littleEndian(whence, 0))
        }
        #expect(try seek(0, 4)[0, UInt64.self] == 4096)
        #expect(try seek(4096, 3)[0, UInt64.self] == 8192)
        #expect(try seek(0, 0).error == EINVAL)
        #expect(try seek(30000, 3).error == ENXIO)
        let other = try rig.create("other")
        let copied = try rig.call(
            FUSE.copyFileRange, made.nodeID,
            littleEndian(handle, 0, other.nodeID, other[128, UInt64.self], 10, 4097, 0))
        #expect(copied[0, UInt32.self] == 4097)
        #expect(
            try readFile(rig.folder["other"])
                == [UInt8](repeating: 0, count: 10) + [UInt8](repeating: 1, count: 4096) + [0])
    }

    @Test("data is flushed and synchronised")
    func synchronises() throws {
        let rig = try SharedFolderRig()
        let made = try rig.create("file")
        let handle = made[128, UInt64.self]
        let folder = try rig.call(FUSE.opendir, FUSE.root, littleEndian(0, 0 as UInt32))
        for flags: UInt32 in [0, 1] {
            let body = littleEndian(handle) + littleEndian(flags, 0)
            #expect(try rig.call(FUSE.fsync, made.nodeID, body).error == 0)
            let other = littleEndian(folder[0, UInt64.self]) + littleEndian(flags, 0)
            #expect(try rig.call(FUSE.fsyncdir, FUSE.root, other).error == 0)
        }
        #expect(try rig.call(FUSE.flush, made.nodeID, littleEndian(handle, 0, 0)).error == 0)
        #expect(try rig.call(FUSE.flush, made.nodeID, littleEndian(99, 0, 0)).error == EBADF)
        for node in [FUSE.root, made.nodeID] {
            #expect(try rig.call(FUSE.syncfs, node, littleEndian(0 as UInt64)).error == 0)
        }
    }

    @Test("a folder that is shared for reading is not changed")
    func readOnly() throws {
        let rig = try SharedFolderRig("readonly=on,xattr=on")
        try rig.folder.file("file", [1, 2])
        let node = try rig.node("file")
        let handle = try rig.open(node, O_RDONLY)
        #expect(try rig.read(node, handle, at: 0, 9).bytes == [1, 2])
        for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC] {
            let body = littleEndian(UInt32(bitPattern: flags), 0)
            #expect(try rig.call(FUSE.open, node, body).error == EROFS)
        }
        let changes = [
            FUSE.setattr, FUSE.symlink, FUSE.mknod, FUSE.mkdir, FUSE.unlink, FUSE.rmdir,
            FUSE.rename, FUSE.link, FUSE.write, FUSE.setxattr, FUSE.removexattr, FUSE.create,
            FUSE.fallocate, FUSE.rename2, FUSE.copyFileRange, FUSE.tmpfile,
        ]
        for opcode in changes { #expect(try rig.call(opcode, node).error == EROFS, "\(opcode)") }
        #expect(try readFile(rig.folder["file"]) == [1, 2])
        #expect(readFolder(rig.folder.path) == ["file"])
    }
}
