import Glibc
import TestSupport

/// A root disk for a guest: the file system that `./test` and quickstart use, in an image of its own.
struct RootImage {
    let path: String

    init(_ path: String, size: String = "256M") throws {
        self.path = path
        try Guest.makeDisk(path, size: size)
    }

    /// Bytes that it takes up on the host.
    var size: Int {
        var status = stat()
        _ = unsafe stat(path, &status)
        return Int(status.st_blocks) * 512
    }

    /// The checksum of a file on the disk, as the host sees it; the file system must be sound.
    func checksum(of file: String) throws -> String {
        try Command.run("/bin/sh", "-c", "e2fsck -fn \(path) >/dev/null 2>&1")
        let result = "\(path).sum"
        try Command.run(
            "/bin/sh", "-c", "debugfs -R 'cat \(file)' \(path) 2>/dev/null | md5sum >\(result)")
        return String(decoding: try readFile(result).prefix(32), as: UTF8.self)
    }
}
