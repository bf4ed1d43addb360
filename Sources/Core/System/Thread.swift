internal import CLinux
internal import Glibc

/// A thread of the operating system with a name.
public final class Thread: Sendable {
    // SAFETY: written once before the object is shared, then only read.
    nonisolated(unsafe) private var handle = pthread_t()

    private final class Start {
        let name: String
        let body: @Sendable () -> Void

        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Starts a thread that runs `body`.
    /// - Parameters:
    ///   - name: at most 15 bytes are kept.
    ///   - stackSize: bytes, a multiple of the page size.
    public init(
        name: String, stackSize: Int = 256 << 10, body: @escaping @Sendable () -> Void
    ) throws(SystemError) {
        var attributes = pthread_attr_t()
        // SAFETY: the attributes are initialised before any other use and destroyed once.
        unsafe pthread_attr_init(&attributes)
        defer { unsafe _ = pthread_attr_destroy(&attributes) }
        unsafe _ = pthread_attr_setstacksize(&attributes, stackSize)
        let start = unsafe Unmanaged.passRetained(Start(name: name, body: body))
        // SAFETY: the new thread takes over the reference that was retained for it.
        let code = unsafe pthread_create(
            &handle, &attributes,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                unsafe _ = clinux_set_thread_name(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        if code != 0 {
            unsafe start.release()
            throw SystemError("pthread_create", errno: code)
        }
    }

    /// Waits until the thread has ended. Call it once.
    public func join() { _ = unsafe pthread_join(handle, nil) }

    /// Sends a signal to the thread, for example to get it out of a blocking system call.
    public func signal(_ number: Int32) { _ = unsafe pthread_kill(handle, number) }
}
