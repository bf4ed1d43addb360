internal import CLinux
internal import Glibc

/// Lets one thread wait for another.
// SAFETY: the semaphore is initialised before any use, never moves, and is freed when nobody holds
// this object any more; its functions may be called from any thread.
@safe package final class Semaphore: Sendable {
    nonisolated(unsafe) private let handle: UnsafeMutablePointer<sem_t>

    package init() {
        // SAFETY: the semaphore is initialised where it stays.
        unsafe handle = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        unsafe _ = sem_init(handle, 0, 0)
    }

    deinit {
        // SAFETY: nobody holds this object any more, so nobody waits.
        unsafe _ = sem_destroy(handle)
        unsafe handle.deallocate()
    }

    package func signal() {
        // SAFETY: initialised, as said at the type.
        unsafe _ = sem_post(handle)
    }

    /// Waits for one `signal`. A signal handler may interrupt the wait, which then goes on.
    package func wait() {
        // SAFETY: as above.
        while unsafe sem_wait(handle) != 0 {}
    }

    /// Waits for one `signal`, but not for longer than `milliseconds`.
    /// - Returns: whether there was one.
    package func wait(milliseconds: UInt32) -> Bool {
        let end = Clock.monotonic() &+ UInt64(milliseconds) &* 1_000_000
        var time = timespec(
            tv_sec: Int(end / 1_000_000_000), tv_nsec: Int(end % 1_000_000_000))
        while true {
            // SAFETY: as above, and the time lives for the call.
            switch unsafe clinux_wait_semaphore(handle, &time) {
            case 0: return true
            case -EINTR: continue
            default: return false
            }
        }
    }
}
