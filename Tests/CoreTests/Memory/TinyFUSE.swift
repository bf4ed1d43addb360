import CLinux
import Core
import Glibc
import TestSupport

/// A file system of this process's with one file, which every name is, and whose pages it never brings
/// (Linux, include/uapi/linux/fuse.h).
enum TinyFUSE {
    /// Whether this process may mount one.
    static let isPossible: Bool = (try? with { _ in }) != nil

    /// Lends the file, open for reading, and ends the file system.
    static func with(_ body: (SharedFD) throws -> Void) throws {
        let folder = try TestFolder()
        // SAFETY: paths and options live for the calls.
        let device = try SharedFD(
            owning: checking("open", unsafe clinux_open("/dev/fuse", O_RDWR, 0)))
        let options = "fd=\(device.rawValue),rootmode=40000,user_id=0,group_id=0"
        let flags: UInt = 2 | 4  // MS_NOSUID, MS_NODEV
        _ = try checking("mount", unsafe mount("test", folder.path, "fuse", flags, options))
        let thread = try Thread(name: "test-fuse") {
            var request = [UInt8](repeating: 0, count: 1 << 17)
            while unsafe read(device.rawValue, &request, request.count) >= 40 {
                guard let answer = answer(to: request) else { continue }
                unsafe _ = write(device.rawValue, answer, answer.count)
            }
        }
        defer {
            // Whoever waits for an answer gets an error, and the thread's read as well.
            unsafe _ = umount2(folder.path, 1 | 2)  // MNT_FORCE, MNT_DETACH
            thread.join()
        }
        try body(
            SharedFD(owning: checking("open", unsafe clinux_open(folder["file"], O_RDONLY, 0))))
    }

    private static func answer(to request: [UInt8]) -> [UInt8]? {
        // What is asked of the first node is the folder's.
        let mode: UInt32 = request[4] == 3 && request[16] == 1 ? 0o40755 : 0o100644
        let attributes =
            littleEndian(2 as UInt64, 0x1000, 8, 0, 0, 0)
            + littleEndian(
                0 as UInt32, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        var body: [UInt8]
        switch request[4] {
        case 2, 42: return nil  // FUSE_FORGET, FUSE_BATCH_FORGET
        case 1:  // FUSE_LOOKUP
            body = littleEndian(2 as UInt64, 0, 60, 60, 0) + attributes
        case 3:  // FUSE_GETATTR
            body = littleEndian(60 as UInt64, 0) + attributes
        case 14: body = littleEndian(0 as UInt64, 0)  // FUSE_OPEN
        case 17: body = [UInt8](repeating: 0, count: 80)  // FUSE_STATFS
        case 18, 25: body = []  // FUSE_RELEASE, FUSE_FLUSH
        case 26:  // FUSE_INIT
            body =
                littleEndian(7 as UInt32, 31, 4096, 0, 0, 4096) + [UInt8](repeating: 0, count: 40)
        default: return littleEndian(16 as UInt32, UInt32(bitPattern: -ENOSYS)) + request[8..<16]
        }
        return littleEndian(UInt32(16 + body.count), 0 as UInt32) + request[8..<16] + body
    }
}
