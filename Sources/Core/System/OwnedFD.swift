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
}
