internal import CLinux
internal import Core
internal import Glibc

/// Waits for several event descriptors at once (epoll(7), edge-triggered: each signal wakes once
/// and nothing has to be read to be able to sleep again).
final class EventWaiter {
    private let fd: OwnedFD
    private static let capacity = 8

    init() throws(SystemError) {
        fd = OwnedFD(owning: try retrying("epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) })
    }

    /// Watches `event`; it has bit `tag` (0-31) in what `wait` returns.
    func add(_ event: Int32, tag: UInt32) throws(SystemError) {
        var registration = unsafe epoll_event()
        unsafe registration.events = EPOLLIN.rawValue | EPOLLET.rawValue
        unsafe registration.data.u32 = tag
        // SAFETY: `registration` lives for the call.
        let code = unsafe epoll_ctl(fd.rawValue, EPOLL_CTL_ADD, event, &registration)
        if code != 0 { throw SystemError("epoll_ctl", errno: errno) }
    }

    /// The tags, as a mask, of the descriptors that were signalled.
    func wait(mayBlock: Bool) -> UInt32 {
        // SAFETY: epoll_wait fills at most `capacity` entries and says how many.
        unsafe withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: Self.capacity) {
            events in
            let count = unsafe epoll_wait(
                fd.rawValue, events.baseAddress, Int32(Self.capacity), mayBlock ? -1 : 0)
            var tags: UInt32 = 0
            for i in 0..<max(Int(count), 0) { tags |= unsafe 1 << (events[i].data.u32 & 31) }
            return tags
        }
    }
}
