internal import Core

/// A port of a switch whose driver's queues the switch serves itself: frames go from one driver's
/// buffers to another's at once.
final class MemoryPort {
    private(set) var sender: PortSender?
    private(set) var receiver: PortReceiver?
    /// Which frames the driver wants; `nil`: all.
    var filter: ReceiveFilter? { didSet { receiver?.filter = filter } }
    /// How much may go; what is too much for the driver is dropped. Set before queues start.
    var limits = TrafficLimits()
    /// When the driver may send again, if it may not now.
    var sendTime: UInt64?
    /// The port whose driver has no buffer for the next frame, and until when that is waited for.
    var hold: (port: Int, until: UInt64)?
    /// Until then nobody waits for this port's driver any more.
    var patienceEnds: UInt64 = 0

    /// Whether frames have left the driver's ring that are still to be looked at.
    var hasAhead: Bool { sender?.hasAhead ?? false }

    func start(_ direction: Direction, _ queue: Virtqueue) {
        switch direction {
        case .receive: receiver = PortReceiver(queue, filter: filter, limit: limits.receive)
        case .transmit: sender = PortSender(queue)
        }
    }

    func stop(_ direction: Direction) -> QueueState? {
        publish()
        let queue: Virtqueue?
        switch direction {
        case .receive:
            queue = receiver?.queue
            receiver = nil
        case .transmit:
            queue = sender?.queue
            sender = nil
            hold = nil
            sendTime = nil
        }
        queue?.rewind()
        return queue?.state
    }

    /// Shows the driver what was sent and what has come.
    func publish() {
        sender?.publish()
        receiver?.publish()
    }
}
