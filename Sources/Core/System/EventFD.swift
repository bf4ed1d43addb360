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
    /// counter or empties it first must not be able to stop us. Linux lets it make the descriptor
    /// blocking again: `drain` does not wait even so, and `signal` may if the counter is full as
    /// well, so that a hostile peer can stop the back end that it has to itself. Who serves several,
    /// and the VMM, uses `signalIfRoom`.
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

    /// Like `signal`, without waiting where the counter is full and a peer has made the descriptor
    /// blocking; only one that fills it between two system calls can still make it wait.
    package func signalIfRoom() {
        if clinux_poll_two(fd.rawValue, Int16(POLLOUT), -1, 0, 0) & 1 != 0 { signal() }
    }

    /// Empties the counter, never waiting. Returns whether it was set.
    @discardableResult
    public func drain() -> Bool { clinux_drain_event(fd.rawValue) != 0 }
}
