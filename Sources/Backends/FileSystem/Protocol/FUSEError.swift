internal import Glibc

/// What a request is answered with if it cannot be met: a number of errno(3).
struct FUSEError: Error, Equatable, CustomStringConvertible {
    let code: Int32

    init(_ code: Int32) { self.code = code }

    /// The request makes no sense.
    static let invalid = FUSEError(EINVAL)
    /// There is no such inode any more, or never was.
    static let stale = FUSEError(ESTALE)
    /// There is no such open file.
    static let badHandle = FUSEError(EBADF)
    static let unknownRequest = FUSEError(ENOSYS)
    static let protocolVersion = FUSEError(EPROTO)
    static let readOnly = FUSEError(EROFS)

    var description: String { "errno \(code)" }
}

/// Turns the `-errno` of a CLinux wrapper into an answer.
@inline(__always)
@discardableResult
func fuseChecking<R: FixedWidthInteger & SignedInteger>(_ result: R) throws(FUSEError) -> R {
    if result >= 0 { return result }
    throw FUSEError(Int32(truncatingIfNeeded: -result))
}
