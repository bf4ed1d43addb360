internal import Accelerator
internal import CLinux
internal import Core
internal import Glibc
internal import TCG

extension TCGFiles {
    /// Opens what the options ask for. The process must see files.
    init(opening options: TCGOptions) throws(AcceleratorError) {
        self.init()
        if options.hasPerfMap {
            let path = "/tmp/perf-\(getpid()).map"
            // What another process of this number has left.
            unsafe _ = unlink(path)
            perfMap = try Self.open(path, "perf's map", O_EXCL | O_NOFOLLOW)
        }
        if let path = options.listingPath {
            listing = try Self.open(path, "the file for translated code", O_TRUNC)
        }
    }

    private static func open(
        _ path: String, _ what: String, _ flags: Int32
    ) throws(AcceleratorError) -> CodeFile {
        let flags = flags | O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK
        do {
            // SAFETY: the path lives for the call.
            let raw = try checking("open", unsafe clinux_open(path, flags, 0o644))
            return CodeFile(SharedFD(owning: raw), path: path)
        } catch {
            throw AcceleratorError("\(what), '\(path)', cannot be made: \(error.reason)")
        }
    }
}
