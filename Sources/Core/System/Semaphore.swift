internal import Glibc

/// Lets one thread wait for another.
// SAFETY: the semaphore is initialised before any use, never moves, and is freed when nobody holds
// this object any more; its functions may be called from any thread.
@safe package final class Semaphore: Sendable {
    nonisolated(unsafe) private let handle: UnsafeMutablePointer<sem_t>

    package init() {
        unsafe handle = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        unsafe _ = sem_init(handle, 0, 0)
    }

    deinit {
        unsafe _ = sem_destroy(handle)
        unsafe handle.deallocate()
    }

    package func signal() { unsafe _ = sem_post(handle) }

    /// Waits for one `signal`. A signal handler may interrupt the wait, which then goes on.
    package func wait() { while unsafe sem_wait(handle) != 0 {} }
}
