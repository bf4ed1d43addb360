internal import Core

/// The queues of a device that is a port of a switch.
final class SwitchedPair: QueuePair {
    private let thread: SwitchThread
    private let port: MemoryPort
    private let onLinkChange: @Sendable (Bool) -> Void
    private var isUp = false

    /// - Parameter onLinkChange: called once, when the first queue starts.
    init(
        _ port: MemoryPort, of thread: SwitchThread,
        onLinkChange: @escaping @Sendable (Bool) -> Void
    ) {
        self.thread = thread
        self.port = port
        self.onLinkChange = onLinkChange
    }

    /// What drivers can leave to the switch, and what they may get unfinished from each other.
    static let features =
        NetworkFeature.checksum | NetworkFeature.hostTSO4 | NetworkFeature.hostTSO6
        | NetworkFeature.hostECN | NetworkFeature.hostUSO | NetworkFeature.guestChecksum
        | NetworkFeature.guestTSO4 | NetworkFeature.guestTSO6 | NetworkFeature.guestECN
        | NetworkFeature.guestUSO4 | NetworkFeature.guestUSO6

    func start(_ direction: Direction, _ queue: Virtqueue) {
        _ = thread.perform { [port] in port.start(direction, queue) }
        if !isUp { onLinkChange(true) }
        isUp = true
    }

    func stop(_ direction: Direction) -> QueueState? {
        thread.perform { [port, thread] in
            if direction == .receive { thread.network.forget(port) }
            return port.stop(direction)
        } ?? nil
    }

    func send(_ announcement: Announcement) {
        _ = thread.perform { [port, thread] in
            let driver = port.sender?.queue
            _ = port.stop(.transmit)
            port.start(.transmit, announcement.queue)
            _ = thread.network.serveMemoryPorts()
            _ = port.stop(.transmit)
            if let driver { port.start(.transmit, driver) }
        }
    }

    func attach(_ isAttached: Bool) {}

    func filter(_ filter: ReceiveFilter?) {
        _ = thread.perform { [port] in port.filter = filter }
    }

    var unsent: [UInt8] {
        get { [] }
        set {}
    }
}
