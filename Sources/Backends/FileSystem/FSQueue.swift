internal import CLinux
internal import Core
internal import VhostUser

/// A queue that has been started: its thread, and how to end it.
final class FSQueue {
    private let queue: Virtqueue
    private let stopSignal: StopSignal
    private var thread: Thread?

    /// - Parameter serve: serves the queue until it is told to stop; the descriptor is the
    ///   driver's.
    init(
        _ queue: Virtqueue, index: Int, _ fileSystem: FileSystem,
        _ serve: @escaping @Sendable (EventFD, StopSignal) -> Void
    ) throws {
        guard let kick = queue.setup.kick else {
            throw BackendError("there is no kick descriptor, and the queue is not polled")
        }
        self.queue = queue
        let stop = StopSignal(try EventFD())
        stopSignal = stop
        thread = try Thread(name: "queue \(index)") {
            guard Self.enterDescriptors(of: fileSystem) else { return }
            serve(kick, stop)
        }
    }

    /// What each thread that works with files does first.
    static func enterDescriptors(of fileSystem: FileSystem) -> Bool {
        let code = clinux_enter_descriptors(fileSystem.proc.rawValue)
        guard code == 0 else {
            let reason = SystemError("", errno: -code).reason
            fsLog(.error, "nothing can be served: a thread has no way to descriptors: \(reason)")
            return false
        }
        fileSystem.queueFilter?.loadOrEnd()
        return true
    }

    /// Ends the thread once all that was taken from the ring is done.
    func stop() -> QueueState {
        stopSignal.send()
        thread?.join()
        thread = nil
        return queue.state
    }
}

let fsLog = Log("fs")
