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

    /// Takes a descriptor that a peer sent. It may be blocking; it is treated as non-blocking by
    /// polling before each read.
    public init(adopting fd: SharedFD) { self.fd = fd }

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
