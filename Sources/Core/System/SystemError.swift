internal import CLinux
internal import Glibc

/// A system call that failed: its name and its `errno`.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
    public let call: String
    public let code: Int32

    public init(_ call: StaticString, errno code: Int32) {
        self.call = "\(call)"
        self.code = code
    }

    /// For example `open: No such file or directory`.
    public var description: String { "\(call): \(reason)" }

    /// The error in words, for example `No such file or directory`.
    public var reason: String {
        // SAFETY: strerror returns a NUL-terminated string that is valid until the next call on
        // this thread; it is copied at once.
        unsafe String(cString: strerror(code))
    }
}

/// Calls `body` until it is not interrupted; -1 becomes an error with the current `errno`.
package func retrying<R: FixedWidthInteger & SignedInteger>(
    _ call: StaticString, _ body: () -> R
) throws(SystemError) -> R {
    while true {
        let result = body()
        if result != -1 { return result }
        let code = errno
        if code != EINTR { throw SystemError(call, errno: code) }
    }
}

/// Turns the `-errno` of a CLinux wrapper into an error.
package func checking<R: FixedWidthInteger & SignedInteger>(
    _ call: StaticString, _ result: R
) throws(SystemError) -> R {
    if result >= 0 { return result }
    throw SystemError(call, errno: Int32(truncatingIfNeeded: -result))
}
