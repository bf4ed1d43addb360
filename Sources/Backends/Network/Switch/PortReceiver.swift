internal import CLinux
internal import Core
internal import Glibc

/// The queue of a switch's port by which frames go to a driver.
///
/// Frames that a driver leaves unfinished, segments or checksums, stay so where the receiver's driver
/// takes them (VIRTIO 1.3, section 5.1.6.4).
// SAFETY: the window keeps the driver's buffers mapped as long as the queue is here, and says how
// large they are.
@safe final class PortReceiver {
    /// What became of a frame.
    enum Delivery {
        case done
        /// The driver does not want it, or has no buffer for frames of such a size.
        case dropped
        /// The driver may give more buffers.
        case noRoom
    }

    let queue: Virtqueue
    /// Which frames the driver wants; `nil`: all.
    var filter: ReceiveFilter? { didSet { takesAll = filter == nil && limit == nil } }
    private var takesAll: Bool
    private let limit: TrafficLimit?
    private let window: ReceiveWindow
    private let headerSize: UInt64
    private let features: UInt64
    private var hasReceived = false

    init(_ queue: Virtqueue, filter: ReceiveFilter?, limit: TrafficLimit?) {
        self.queue = queue
        self.filter = filter
        self.limit = limit
        takesAll = filter == nil && limit == nil
        features = queue.setup.features
        headerSize = FrameHeader.size(features: features)
        window = ReceiveWindow(features: features)
    }

    /// Shows the driver what has come.
    func publish() {
        guard hasReceived else { return }
        hasReceived = false
        if queue.publish() { queue.setup.call?.signalIfRoom() }
    }

    /// Whether the driver takes the frame that was taken from another one as it is.
    @inline(__always)
    func takes(_ frame: PortSender.Frame, from sender: PortSender) -> Bool {
        frame.isFinished || takesUnfinished(frame, sender)
    }

    private func takesUnfinished(_ frame: PortSender.Frame, _ sender: PortSender) -> Bool {
        guard let request = sender.request(of: frame),
            request.checksumStart + request.checksumOffset + 2 <= frame.length,
            request.segments == .none || request.segmentSize > 0
        else { return false }
        let isCongested = frame.header & 0x8000 != 0  // VIRTIO_NET_HDR_GSO_ECN
        let needed =
            request.segments.guestFeatures | NetworkFeature.guestChecksum
            | (isCongested ? NetworkFeature.guestECN : 0)
        return features & needed == needed
    }

    /// Copies the frame that was taken from another driver to this one's buffers.
    @inline(__always)
    func deliver(_ frame: PortSender.Frame, from sender: PortSender) -> Delivery {
        let total = headerSize + frame.length
        if window.room < total {
            let result = makeRoom(total)
            guard case .done = result else { return result }
        }
        guard takesAll, let bytes = unsafe frame.bytes,
            let place = unsafe window.place(for: total)
        else { return deliverInPieces(frame, sender) }
        unsafe place.storeBytes(of: frame.header.littleEndian, as: UInt64.self)
        // The number of buffers comes last, where there is one.
        unsafe (place + 8).storeBytes(
            of: (UInt32(frame.checksumOffset) | 1 << 16).littleEndian, as: UInt32.self)
        unsafe memcpy(place + Int(headerSize), bytes, Int(frame.length))
        window.completeFirst(total, to: queue)
        hasReceived = true
        return .done
    }

    @inline(never)
    private func deliverInPieces(_ frame: PortSender.Frame, _ sender: PortSender) -> Delivery {
        var copy = unsafe BufferCopy(
            window, byteCount: headerSize + frame.length,
            header: (frame.header, frame.checksumOffset), size: headerSize)
        unsafe sender.forEachPiece { bytes, count in unsafe copy.put(bytes, count) }
        return complete(frame.length)
    }

    /// Copies a finished frame to the driver's buffers.
    func deliver(_ bytes: UnsafeRawBufferPointer) -> Delivery {
        let length = UInt64(bytes.count)
        if window.room < headerSize + length {
            let result = makeRoom(headerSize + length)
            guard case .done = result else { return result }
        }
        guard let base = bytes.baseAddress else { return .dropped }
        var copy = unsafe BufferCopy(
            window, byteCount: headerSize + length, header: (0, 0), size: headerSize)
        unsafe copy.put(base, bytes.count)
        return complete(length)
    }

    private func makeRoom(_ wanted: UInt64) -> Delivery {
        queue.disableNotifications()
        do throws(QueueError) {
            if try window.fill(from: queue, wanted: wanted) > 0 { hasReceived = true }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
        }
        if window.room >= wanted { return .done }
        return window.isFull || queue.isBroken ? .dropped : .noRoom
    }

    private func complete(_ length: UInt64) -> Delivery {
        // It stays where it is, and the next one is written over it.
        if let filter, !filter.passes(window, headerSize: headerSize) { return .dropped }
        if let limit {
            let now = Clock.monotonic()
            guard limit.wait(at: now) == nil else { return .dropped }
            limit.use(bytes: length, packets: 1, at: now)
        }
        window.complete(headerSize + length, flags: nil, to: queue)
        hasReceived = true
        return .done
    }
}

extension OffloadRequest.Segments {
    /// What a driver must have accepted to get them unfinished.
    fileprivate var guestFeatures: UInt64 {
        switch self {
        case .none: 0
        case .tcp4: NetworkFeature.guestTSO4
        case .tcp6: NetworkFeature.guestTSO6
        case .udp: NetworkFeature.guestUSO4 | NetworkFeature.guestUSO6
        }
    }
}
