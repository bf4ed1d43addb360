internal import CLinux
internal import Core
internal import Glibc

/// Waits for kicks, the stop signal and completions at once (epoll(7), edge-triggered: each signal
/// wakes once and nothing has to be read to be able to sleep again).
final class EventWaiter {
    private let fd: OwnedFD
    private let completed: EventFD
    /// The tags of signals that `next` has not reported yet, as a mask.
    private var signals: UInt32 = 0

    private static let kickTag: UInt32 = 0
    private static let stopTag: UInt32 = 1
    private static let completionTag: UInt32 = 2
    private static let capacity = 3

    /// - Parameter completed: wakes up, and is not reported.
    init(_ setup: IOEngineSetup, completed: EventFD) throws(BlockError) {
        self.completed = completed
        do throws(SystemError) {
            fd = OwnedFD(
                owning: try retrying("epoll_create1") { epoll_create1(Int32(EPOLL_CLOEXEC)) })
            try add(setup.kick, tag: Self.kickTag)
            try add(setup.stop.event, tag: Self.stopTag)
            try add(completed, tag: Self.completionTag)
        } catch {
            throw BlockError("cannot wait for requests: \(error)")
        }
    }

    /// An event for `init`.
    static func event() throws(BlockError) -> EventFD {
        do throws(SystemError) {
            return try EventFD()
        } catch {
            throw BlockError("cannot wait for requests: \(error)")
        }
    }

    private func add(_ event: EventFD, tag: UInt32) throws(SystemError) {
        var registration = unsafe epoll_event()
        unsafe registration.events = EPOLLIN.rawValue | EPOLLET.rawValue
        unsafe registration.data.u32 = tag
        // SAFETY: `registration` lives for the call.
        let code = unsafe epoll_ctl(fd.rawValue, EPOLL_CTL_ADD, event.rawValue, &registration)
        if code != 0 { throw SystemError("epoll_ctl", errno: errno) }
    }

    /// Takes over what was signalled; sleeps until something is, if it may.
    func wait(mayBlock: Bool) {
        // SAFETY: epoll_wait fills at most `capacity` entries and says how many.
        unsafe withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: Self.capacity) {
            events in
            let count = unsafe epoll_wait(
                fd.rawValue, events.baseAddress, Int32(Self.capacity), mayBlock ? -1 : 0)
            for i in 0..<max(Int(count), 0) { unsafe signals |= 1 << (events[i].data.u32 & 31) }
        }
    }

    /// The next signal that has come.
    @inline(__always)
    func next() -> IOEvent? {
        if signals & (1 << Self.kickTag) != 0 {
            signals &= ~(1 << Self.kickTag)
            return .kick
        }
        if signals & (1 << Self.stopTag) != 0 {
            signals &= ~(1 << Self.stopTag)
            return .stop
        }
        return nil
    }
}
