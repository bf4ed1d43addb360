internal import Core
internal import Devices

/// A control thread for devices: an event loop that vCPU threads can call into. It runs the loop of
/// the process's first thread, or one on a thread of its own.
// SAFETY: `watches` is used on the loop's thread only, `thread` on the process's first.
final class ControlThread: ControlPlane, @unchecked Sendable {
    let loop: EventLoop
    private var watches: [Int32: EventRegistration] = [:]
    private var thread: Thread?

    init(_ loop: EventLoop) { self.loop = loop }

    deinit { end() }

    /// Runs the loop on a thread of its own, from now until `end`. Before and afterwards the
    /// process's first thread stands in for it.
    /// - Parameter filter: what the thread restricts itself with.
    func launch(name: String, filter: SeccompFilter?) throws(SystemError) {
        let isRunning = Semaphore()
        loop.post { isRunning.signal() }
        thread = try Thread(name: name) { [loop] in
            filter?.loadOrEnd()
            loop.run()
        }
        // Until then any thread would take itself for the loop's.
        isRunning.wait()
    }

    /// Ends the thread, if there is one, when it has done what it is doing.
    func end() {
        guard let thread else { return }
        loop.quit()
        thread.join()
        self.thread = nil
    }

    func perform(_ work: @escaping @Sendable () -> Void) {
        let done = Semaphore()
        begin(work, then: done.signal)
        done.wait()
    }

    /// Does `work` and then `completion` on the control thread: at once, if this is it, and else
    /// without waiting.
    func begin(
        _ work: @escaping @Sendable () -> Void, then completion: @escaping @Sendable () -> Void
    ) {
        if loop.isOnLoop {
            work()
            completion()
        } else {
            loop.post {
                work()
                completion()
            }
        }
    }

    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        watches[event.rawValue] = loop.watch(event.rawValue, for: .readable) { _ in handler() }
    }

    func unwatch(_ event: EventFD) {
        watches.removeValue(forKey: event.rawValue)?.cancel()
    }
}
