internal import CLinux
internal import Glibc

/// Owns a file descriptor and closes it exactly once.
public struct OwnedFD: ~Copyable, Sendable {
    public let rawValue: Int32

    public init(owning rawValue: Int32) { self.rawValue = rawValue }

    deinit { _ = close(rawValue) }

    /// Gives up ownership, for example to hand the descriptor to C.
    public consuming func release() -> Int32 {
        let fd = rawValue
        discard self
        return fd
    }

    /// A second descriptor for the same open file, close-on-exec.
    public borrowing func duplicate() throws(SystemError) -> OwnedFD {
        OwnedFD(owning: try checking("fcntl", clinux_fcntl(rawValue, F_DUPFD_CLOEXEC, 0)))
    }
}

/// A descriptor with several owners, closed when the last one is gone. Messages carry these.
public final class SharedFD: Sendable {
    private let fd: OwnedFD

    public init(_ fd: consuming OwnedFD) { self.fd = fd }

    public convenience init(owning rawValue: Int32) { self.init(OwnedFD(owning: rawValue)) }

    /// Valid as long as this object lives.
    public var rawValue: Int32 { fd.rawValue }

    public func duplicate() throws(SystemError) -> OwnedFD { try fd.duplicate() }

    /// How many bytes of a socket or a pipe wait to be read. A process with a filter needs
    /// `ioctl` with `FIONREAD`.
    package func waitingBytes() throws(SystemError) -> Int {
        var count: Int32 = 0
        // SAFETY: the call fills the integer, which lives long enough.
        let result = unsafe withUnsafeMutablePointer(to: &count) {
            clinux_ioctl(rawValue, UInt(FIONREAD), UInt(bitPattern: $0))
        }
        _ = try checking("ioctl", result)
        return Int(count)
    }

    /// Reads `count` bytes of a file, without a mapping that somebody could cut off.
    /// - Throws: also if the file ends before (`EOVERFLOW`).
    package func read(_ count: Int, at offset: UInt64) throws(SystemError) -> [UInt8] {
        guard let offset = Int(exactly: offset) else {
            throw SystemError("pread", errno: EOVERFLOW)
        }
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the array has room for `count` bytes and lives for the call.
        let length = try retrying("pread") { unsafe pread(rawValue, &bytes, count, offset) }
        guard length == count else { throw SystemError("pread", errno: EOVERFLOW) }
        return bytes
    }

    /// Writes to a file, without a mapping that somebody could cut off.
    package func write(_ bytes: [UInt8], at offset: UInt64) throws(SystemError) {
        guard let offset = Int(exactly: offset) else {
            throw SystemError("pwrite", errno: EOVERFLOW)
        }
        // SAFETY: the array has `count` bytes and lives for the call.
        let length = try retrying("pwrite") {
            unsafe pwrite(rawValue, bytes, bytes.count, offset)
        }
        guard length == bytes.count else { throw SystemError("pwrite", errno: EOVERFLOW) }
    }
}
