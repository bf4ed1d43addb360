import CLinux
import Core
import Glibc

/// A file in memory without a name, of zeroes, which may become shorter.
func unnamedFile(size: UInt64) throws -> SharedFD {
    let unnamed: Int32 = 0o20_200_000  // O_TMPFILE
    // SAFETY: the path lives for the call.
    let raw = try checking("open", unsafe clinux_open("/dev/shm", O_RDWR | unnamed, 0o600))
    let file = SharedFD(owning: raw)
    _ = try checking("ftruncate", ftruncate(file.rawValue, off_t(size)))
    return file
}
