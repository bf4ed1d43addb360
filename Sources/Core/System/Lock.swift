internal import Glibc

/// A value that one thread at a time works with.
///
/// Unlike `Synchronization.Mutex` it has no need of the number of the thread that holds it, which
/// the standard library keeps for each thread: a process that a launcher has copied has another
/// number than its original (see `Launcher`). What runs in those takes this one.
// SAFETY: the value is reached only by who holds the mutex, which never moves, and both are freed
// when nobody has this lock any more.
@safe package struct Lock<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    nonisolated(unsafe) private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    nonisolated(unsafe) private let value: UnsafeMutablePointer<Value>

    package init(_ value: consuming sending Value) {
        // SAFETY: both are initialised where they stay.
        unsafe mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
        unsafe pthread_mutex_init(mutex, nil)
        unsafe self.value = UnsafeMutablePointer<Value>.allocate(capacity: 1)
        unsafe self.value.initialize(to: value)
    }

    deinit {
        // SAFETY: nobody has this lock any more, so nobody holds it.
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
        unsafe value.deinitialize(count: 1)
        unsafe value.deallocate()
    }

    /// Waits until no other thread works with the value, and then works with it. Must not be called
    /// by `body`.
    package borrowing func withLock<Result: ~Copyable, Failure: Error>(
        _ body: (inout Value) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: initialised, as said at the type.
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try unsafe body(&value.pointee)
    }
}
