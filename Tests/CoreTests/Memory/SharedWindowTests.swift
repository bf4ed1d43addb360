import CLinux
import Core
import Glibc
import TestSupport
import Testing

@Suite("A window of shared memory")
struct SharedWindowTests {
    private let folder: TestFolder
    private let window: SharedWindow

    init() throws {
        folder = try TestFolder()
        window = try SharedWindow(size: 1 << 20)
    }

    /// A file whose pages begin with 1, 2, 3...
    private func file(_ name: String, pages: Int = 4) throws -> SharedFD {
        var bytes = [UInt8](repeating: 0, count: pages * 4096)
        for page in 0..<pages { bytes[page * 4096] = UInt8(page + 1) }
        let path = try folder.file(name, bytes)
        return try SharedFD(owning: checking("open", Self.open(path, O_RDWR)))
    }

    private static func open(_ path: String, _ flags: Int32) -> Int32 {
        // SAFETY: the path lives for the call.
        unsafe Glibc.open(path, flags)
    }

    private func byte(_ offset: Int) -> UInt8 {
        unsafe window.base.load(fromByteOffset: offset, as: UInt8.self)
    }

    private func store(_ value: UInt8, at offset: Int) {
        unsafe window.base.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
    }

    @Test("it is empty, shows pieces of files, and is emptied")
    func pieces() throws {
        let fd = try file("file")
        #expect(byte(0x3000) == 0)
        try window.map(fd.rawValue, from: 0x1000, at: 0x3000, size: 0x2000, isWritable: true)
        #expect(byte(0x2000) == 0)
        #expect(byte(0x3000) == 2)
        #expect(byte(0x4000) == 3)
        store(77, at: 0x4001)
        #expect(try readFile(folder["file"])[0x2001] == 77)
        try window.unmap(at: 0x3000, size: 0x1000)
        #expect(byte(0x3000) == 0)
        #expect(byte(0x4001) == 77)
        #expect(window.pieceCount == 1)
        store(5, at: 0x3000)
        try window.clear()
        #expect(byte(0x3000) == 0)
        #expect(byte(0x4001) == 0)
        #expect(window.pieceCount == 0)
    }

    @Test("what is there for reading can be written to, and the file stays as it is")
    func reading() throws {
        let fd = try file("file")
        try window.map(fd.rawValue, from: 0, at: 0, size: 0x4000, isWritable: false)
        store(99, at: 0x1000)
        #expect(byte(0x1000) == 99)
        #expect(byte(0x2000) == 3)
        #expect(try readFile(folder["file"])[0x1000] == 2)
        // A file that may only be read cannot be shown otherwise.
        let readable = try SharedFD(
            owning: checking("open", Self.open(folder["file"], O_RDONLY)))
        try window.map(readable.rawValue, from: 0, at: 0, size: 0x1000, isWritable: false)
        #expect(throws: WindowError.system(SystemError("mmap", errno: EACCES))) {
            try window.map(readable.rawValue, from: 0, at: 0, size: 0x1000, isWritable: true)
        }
    }

    @Test("a mapping takes the place of others, and splits them")
    func overlap() throws {
        let (old, new) = (try file("old", pages: 8), try file("new", pages: 8))
        try window.map(old.rawValue, from: 0, at: 0x10000, size: 0x8000, isWritable: true)
        try window.map(new.rawValue, from: 0x6000, at: 0x12000, size: 0x2000, isWritable: true)
        #expect(
            (0..<8).map { byte(0x10000 + $0 * 0x1000) } == [1, 2, 7, 8, 5, 6, 7, 8])
        #expect(window.pieceCount == 3)
        try window.map(new.rawValue, from: 0, at: 0x11000, size: 0x6000, isWritable: true)
        #expect(
            (0..<8).map { byte(0x10000 + $0 * 0x1000) } == [1, 1, 2, 3, 4, 5, 6, 8])
        #expect(window.pieceCount == 3)
        try window.unmap(at: 0, size: window.size)
        #expect(window.pieceCount == 0)
    }

    @Test(
        "ranges that are not whole pages inside it are refused",
        arguments: [
            (0x100, 0x1000), (0, 0), (0, 0x100), (1 << 20, 0x1000), ((1 << 20) - 0x1000, 0x2000),
            (UInt64.max - 0xFFF, 0x2000), (0x1000, UInt64.max - 0xFFF), (0, 1 << 63),
        ] as [(UInt64, UInt64)])
    func ranges(offset: UInt64, size: UInt64) throws {
        let fd = try file("file")
        #expect(throws: WindowError.range(offset: offset, size: size)) {
            try window.map(fd.rawValue, from: 0, at: offset, size: size, isWritable: true)
        }
        #expect(throws: WindowError.range(offset: offset, size: size)) {
            try window.unmap(at: offset, size: size)
        }
    }

    @Test(
        "so are places of files that there cannot be",
        arguments: [1, 0x7FFF_FFFF_FFFF_F000, UInt64.max - 0xFFF])
    func fileOffsets(offset: UInt64) throws {
        let fd = try file("file")
        #expect(throws: WindowError.self) {
            try window.map(fd.rawValue, from: offset, at: 0, size: 0x1000, isWritable: true)
        }
    }

    @Test("what is no regular file is refused")
    func otherFiles() throws {
        let (near, _) = try UnixSocket.pair()
        let zero = try SharedFD(owning: checking("open", Self.open("/dev/zero", O_RDWR)))
        for fd in [near.fd.rawValue, zero.rawValue, -1] {
            #expect(throws: WindowError.file) {
                try window.map(fd, from: 0, at: 0, size: 0x1000, isWritable: true)
            }
        }
    }

    @Test(
        "so is a file whose pages are no local disk's, by its file system's name",
        arguments: [("/proc/cpuinfo", "proc"), ("/sys/kernel/uevent_seqnum", "sysfs")])
    func otherFileSystems(path: String, name: String) throws {
        let fd = try SharedFD(owning: checking("open", Self.open(path, O_RDONLY)))
        #expect(throws: WindowError.fileSystem(name)) {
            try window.map(fd.rawValue, from: 0, at: 0, size: 0x1000, isWritable: false)
        }
    }

    @Test(
        "so is a file of a program's that need not bring its pages",
        .enabled(if: TinyFUSE.isPossible, "only root can mount a FUSE file system"))
    func programFileSystems() throws {
        try TinyFUSE.with { file in
            #expect(throws: WindowError.fileSystem("FUSE")) {
                try window.map(file.rawValue, from: 0, at: 0, size: 0x1000, isWritable: false)
            }
        }
    }

    @Test("a file that cannot be mapped leaves what was there")
    func refusedMapping() throws {
        let fd = try file("file")
        try window.map(fd.rawValue, from: 0x1000, at: 0x3000, size: 0x2000, isWritable: true)
        store(9, at: 0x5000)
        // It can be read and written, but not mapped so.
        let sealed = try MemFD(name: "sealed", size: 0x2000)
        let futureWrite: Int32 = 0x10  // F_SEAL_FUTURE_WRITE
        #expect(fcntl(sealed.fd.rawValue, CLINUX_F_ADD_SEALS, futureWrite) == 0)
        for offset in [0x3000, 0x5000] as [UInt64] {
            #expect(throws: WindowError.system(SystemError("mmap", errno: EPERM))) {
                try window.map(
                    sealed.fd.rawValue, from: 0, at: offset, size: 0x1000, isWritable: true)
            }
        }
        #expect(byte(0x3000) == 2)
        #expect(byte(0x5000) == 9)
        #expect(window.pieceCount == 1)
    }

    /// Of some files the kernel finds out only when it has taken away what was there before.
    @Test(
        "so does one that the kernel asks last",
        arguments: ["/proc/cpuinfo", "/sys/kernel/uevent_seqnum"])
    func refusedLate(path: String) throws {
        let size = 0x4000
        let left = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
        unsafe left.initialize(to: 10)
        defer { unsafe left.deallocate() }
        let base = try unsafe #require(
            unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        defer { unsafe munmap(base, size) }
        let event = try EventFD()
        let guarded = try unsafe #require(
            unsafe clinux_window_add(base, size, event.rawValue, left))
        defer { unsafe clinux_window_remove(guarded) }
        unsafe base.storeBytes(of: 7, toByteOffset: 0x1000, as: UInt8.self)
        let fd = try SharedFD(owning: checking("open", Self.open(path, O_RDONLY)))
        #expect(
            unsafe clinux_window_map(
                guarded, 0x1000, 0x1000, MAP_PRIVATE, fd.rawValue, 0, 3) < 0)
        var isThere: UInt8 = 0
        try #require(unsafe mincore(base + 0x1000, 0x1000, &isThere) == 0)
        #expect(unsafe base.load(fromByteOffset: 0x1000, as: UInt8.self) == 7)
        #expect(unsafe clinux_windows_left(left) == 9)
    }

    @Test("it does not consist of more pieces than the process may have mappings")
    func manyPieces() throws {
        let large = try SharedWindow(size: 64 << 20)
        let fd = try file("file")
        var count: UInt64 = 0
        let limit = UInt64(large.maximumPieces)
        #expect(throws: WindowError.tooMany) {
            while count <= limit {
                try large.map(
                    fd.rawValue, from: 0, at: count * 0x2000, size: 0x1000, isWritable: false)
                count += 1
            }
        }
        #expect(large.pieceCount >= Int(limit) - 2)
        // One takes the place of another all the same.
        try large.map(fd.rawValue, from: 0x1000, at: 0, size: 0x1000, isWritable: false)
        #expect(unsafe large.base.load(as: UInt8.self) == 2)
        try large.clear()
        #expect(large.pieceCount == 0)
    }

    @Test("a device's regions lie apart, and have their own ends")
    func regions() throws {
        let device = try DeviceWindow(sizes: [0x3000, 0, 6 << 20])
        #expect(
            device.regions == [
                .init(id: 0, offset: 0, size: 0x3000),
                .init(id: 2, offset: 2 << 20, size: 6 << 20),
            ])
        #expect(device.memory.size == 8 << 20)
        #expect(device.offset(region: 0, 0x2000, 0x1000) == 0x2000)
        #expect(device.offset(region: 2, 0x1000, 0x1000) == (2 << 20) + 0x1000)
        for (region, offset, size) in [
            (1, 0, 0), (0, 0x3000, 1), (0, 0, 0x3001), (0, UInt64.max, 2), (2, 1, UInt64.max),
        ] as [(UInt8, UInt64, UInt64)] {
            #expect(device.offset(region: region, offset, size) == nil)
        }
        #expect(DeviceWindow.allows([DeviceWindow.maximumSize]))
        #expect(!DeviceWindow.allows([DeviceWindow.maximumSize, 0x1000]))
        #expect(!DeviceWindow.allows([0x1001]))
        #expect(!DeviceWindow.allows([UInt64.max & ~0xFFF]))
        #expect(!DeviceWindow.allows(Array(repeating: 0, count: 257)))
    }
}
