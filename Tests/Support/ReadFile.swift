package import Core
import CLinux
import Glibc

/// A file's bytes from `offset` on: all of them, or `count`.
package func readFile(
    _ path: String, offset: Int = 0, count: Int = .max
) throws(SystemError) -> [UInt8] {
    // SAFETY: the path lives for the call.
    let fd = OwnedFD(owning: try checking("open", unsafe clinux_open(path, O_RDONLY, 0)))
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65536)
    while bytes.count < count {
        let wanted = min(piece.count, count - bytes.count)
        // SAFETY: the piece has room for what is wanted.
        let got = try retrying("pread") {
            unsafe pread(fd.rawValue, &piece, wanted, offset + bytes.count)
        }
        if got == 0 { break }
        bytes += piece[..<got]
    }
    return bytes
}

/// The names in a folder; none if it cannot be read.
package func readFolder(_ path: String) -> [String] {
    // SAFETY: the path lives for the call, and an entry is read before the folder is read on.
    guard let folder = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(folder) }
    var names: [String] = []
    while let entry = unsafe readdir(folder) {
        let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
            unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                unsafe String(cString: $0)
            }
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names
}
