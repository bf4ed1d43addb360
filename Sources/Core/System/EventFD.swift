internal import CLinux
internal import Glibc

/// A counter that wakes whoever waits for its descriptor (eventfd(2)); non-blocking.
public final class EventFD: Sendable {
    public let fd: SharedFD

    public init() throws(SystemError) {
        fd = SharedFD(
            owning: try retrying("eventfd") {
                eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
            })
    }

    /// Takes a descriptor that a peer sent, and makes it non-blocking: a peer that fills the
    /// counter or empties it first must not be able to stop us. One that makes it blocking again,
    /// which Linux lets it, can stop the back end that it has to itself, and nothing else.
    public init(adopting fd: SharedFD) {
        _ = clinux_set_nonblocking(fd.rawValue)
        self.fd = fd
    }

    /// Goes on as another event: whoever signals this object signals `other` from now on. Nothing
    /// may be waiting for this one.
    package func become(_ other: SharedFD) throws(SystemError) {
        _ = clinux_set_nonblocking(other.rawValue)
        _ = try checking("dup3", clinux_replace_fd(other.rawValue, fd.rawValue))
    }

    public var rawValue: Int32 { fd.rawValue }

    /// Adds one. A full counter already wakes the reader, so that is no error.
    public func signal() {
        var one: UInt64 = 1
        // SAFETY: `one` lives for the call and is 8 bytes long.
        _ = unsafe write(fd.rawValue, &one, 8)
    }

    /// Empties the counter. Returns whether it was set.
    @discardableResult
    public func drain() -> Bool {
        var value: UInt64 = 0
        // SAFETY: `value` lives for the call and is 8 bytes long.
        return unsafe read(fd.rawValue, &value, 8) == 8
    }
}
