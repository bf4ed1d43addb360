internal import Core
internal import Devices

/// The machine's control thread for its devices: an event loop that vCPU threads can call into.
// SAFETY: `watches` is used on the loop's thread only.
final class ControlThread: ControlPlane, @unchecked Sendable {
    let loop: EventLoop
    private var watches: [Int32: EventRegistration] = [:]

    init(_ loop: EventLoop) { self.loop = loop }

    func perform(_ work: @escaping @Sendable () -> Void) {
        if loop.isOnLoop {
            work()
            return
        }
        let done = Semaphore()
        loop.post {
            work()
            done.signal()
        }
        done.wait()
    }

    func watch(_ event: EventFD, _ handler: @escaping @Sendable () -> Void) {
        watches[event.rawValue] = loop.watch(event.rawValue, for: .readable) { _ in handler() }
    }

    func unwatch(_ event: EventFD) {
        watches.removeValue(forKey: event.rawValue)?.cancel()
    }
}
