internal import CLinux
internal import Core
internal import Glibc

/// A port of a switch whose driver's queues the switch serves itself: frames go from one driver's
/// buffers to another's at once.
///
/// Frames that a driver leaves unfinished, segments or checksums, stay so where the receiver's driver
/// takes them (VIRTIO 1.3, section 5.1.6.4).
// SAFETY: the chain keeps the sender's buffers mapped, and the window the receiver's, as long as
// their queues are here. All that is read of them is checked against their lengths first.
@safe final class MemoryPort {
    /// A frame that lies in `chain`.
    struct Frame {
        /// Addresses as numbers; no sender: the frame makes no sense.
        var destination: UInt64 = 0
        var origin: UInt64 = 0
        /// Without header.
        var length: UInt64 = 0
        /// The first eight bytes of the header, and the two after them.
        var header: UInt64 = 0
        var checksumOffset: UInt16 = 0

        /// Whether nothing is left to do.
        var isFinished: Bool { header & 0xffff == 0 }
    }

    /// What became of a frame.
    enum Delivery {
        case done
        /// The driver does not want it, or has no buffer for frames of such a size.
        case dropped
        /// The driver may give more buffers.
        case noRoom
    }

    private static let linkHeader: UInt64 = 14
    private static let headLimit = 12 + 14

    private(set) var sending: Virtqueue?
    private(set) var receiving: Virtqueue?
    private var window: ReceiveWindow?
    private var sendHeader: UInt64 = 0
    private var receiveHeader: UInt64 = 0
    private var sendFeatures: UInt64 = 0
    private var receiveFeatures: UInt64 = 0
    private var hasSent = false
    private var hasReceived = false
    /// Which frames the driver wants; `nil`: all.
    var filter: ReceiveFilter?
    private let batch = TransmitBatch()
    private let segmenter = Segmenter()
    private let chain: DescriptorChain
    private(set) var frame = Frame()
    /// The port whose driver has no buffer for the next frame, and until when that is waited for.
    var hold: (port: Int, until: UInt64)?
    /// Until then nobody waits for this port's driver any more.
    var patienceEnds: UInt64 = 0

    init() { chain = batch.freeChain }

    // MARK: Queues

    func start(_ direction: Direction, _ queue: Virtqueue) {
        let features = queue.setup.features
        let headerSize = FrameHeader.size(features: features)
        switch direction {
        case .receive:
            (receiving, receiveHeader, receiveFeatures) = (queue, headerSize, features)
            window = ReceiveWindow(features: features)
        case .transmit: (sending, sendHeader, sendFeatures) = (queue, headerSize, features)
        }
    }

    func stop(_ direction: Direction) -> QueueState? {
        publish()
        let queue: Virtqueue?
        switch direction {
        case .receive:
            queue = receiving
            receiving = nil
            window?.clear()
        case .transmit:
            queue = sending
            sending = nil
            hold = nil
        }
        queue?.rewind()
        return queue?.state
    }

    /// Shows the driver what was sent and what has come.
    func publish() {
        if hasSent {
            hasSent = false
            if let sending, sending.publish() { sending.setup.call?.signal() }
        }
        if hasReceived {
            hasReceived = false
            if let receiving, receiving.publish() { receiving.setup.call?.signal() }
        }
    }

    // MARK: From the driver

    /// Takes the driver's next frame.
    /// - Returns: whether there was one.
    func take() -> Bool {
        guard let sending else { return false }
        do throws(QueueError) {
            guard try sending.pop(into: chain) else { return false }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
            return false
        }
        readHead()
        return true
    }

    private func readHead() {
        let size = sendHeader
        let total = chain.readableLength
        frame.origin = 0
        guard total >= size + Self.linkHeader, total - size <= FrameLimit.maximum else { return }
        frame.length = total - size
        let first = unsafe chain.readable[0]
        if unsafe first.iov_len >= Self.headLimit, let base = unsafe first.iov_base {
            return unsafe parseHead(UnsafeRawPointer(base))
        }
        unsafe withUnsafeTemporaryAllocation(byteCount: Self.headLimit, alignment: 8) { head in
            guard unsafe chain.read(at: 0, into: head) >= Int(size + Self.linkHeader),
                let base = head.baseAddress
            else { return }
            unsafe parseHead(UnsafeRawPointer(base))
        }
    }

    /// - Parameter head: a header, and that of Ethernet.
    private func parseHead(_ head: UnsafeRawPointer) {
        frame.header = unsafe UInt64(littleEndian: head.loadUnaligned(as: UInt64.self))
        frame.checksumOffset = unsafe UInt16(
            littleEndian: head.loadUnaligned(fromByteOffset: 8, as: UInt16.self))
        let start = unsafe head + Int(sendHeader)
        // The first two bytes of what follows an address are not part of it.
        frame.destination = unsafe UInt64(bigEndian: start.loadUnaligned(as: UInt64.self)) >> 16
        frame.origin =
            unsafe UInt64(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt64.self)) >> 16
    }

    /// The frame has gone, or is given up.
    func giveBack() {
        guard let sending else { return }
        sending.push(chain, written: 0)
        hasSent = true
    }

    /// The frame is to be taken once more.
    func putBack() {
        publish()
        sending?.rewind()
    }

    /// Writes the frame, or what it is to be cut into, to `place`, each with its length before it, as
    /// on a stream.
    /// - Returns: how many bytes that were; none if the frame makes no sense.
    func finish(into place: UnsafeMutableRawBufferPointer) -> Int {
        defer { batch.clear() }
        if frame.isFinished {
            batch.add(skipping: sendHeader, hasLength: true)
        } else {
            guard let request = OffloadRequest(chain, features: sendFeatures),
                unsafe chain.readable.count <= FrameLimit.parts,
                segmenter.add(request, to: batch, skipping: sendHeader, hasLength: true)
            else {
                networkLog.guest("a frame of the driver makes no sense, and is dropped")
                return 0
            }
        }
        var used = 0
        for index in 0..<batch.count {
            let part = unsafe batch.parts[index]
            guard let base = unsafe part.iov_base, unsafe part.iov_len <= place.count - used
            else { return 0 }
            unsafe UnsafeMutableRawBufferPointer(rebasing: place[used...])
                .copyMemory(from: UnsafeRawBufferPointer(start: base, count: part.iov_len))
            used += unsafe part.iov_len
        }
        return used
    }

    // MARK: To the driver

    /// Whether the driver takes the other port's frame as it is.
    func takes(_ source: MemoryPort) -> Bool {
        if source.frame.isFinished { return true }
        guard let request = OffloadRequest(source.chain, features: source.sendFeatures),
            request.checksumStart + request.checksumOffset + 2 <= source.frame.length,
            request.segments == .none || request.segmentSize > 0
        else { return false }
        let isCongested = source.frame.header & 0x8000 != 0  // VIRTIO_NET_HDR_GSO_ECN
        let needed =
            request.segments.guestFeatures | NetworkFeature.guestChecksum
            | (isCongested ? NetworkFeature.guestECN : 0)
        return receiveFeatures & needed == needed
    }

    /// Copies the other port's frame to the driver's buffers.
    func deliver(_ source: MemoryPort) -> Delivery {
        let result = makeRoom(source.frame.length)
        guard case .done = result, let window else { return result }
        var copy = unsafe BufferCopy(
            window, byteCount: receiveHeader + source.frame.length,
            header: (source.frame.header, source.frame.checksumOffset), size: receiveHeader)
        var skip = Int(source.sendHeader)
        let pieces = unsafe source.chain.readable
        for index in 0..<pieces.count {
            let piece = unsafe pieces[index]
            let count = unsafe piece.iov_len
            if skip >= count {
                skip -= count
                continue
            }
            if let base = unsafe piece.iov_base {
                unsafe copy.put(base + skip, count - skip)
            }
            skip = 0
        }
        return complete(source.frame.length, window)
    }

    /// Copies a finished frame to the driver's buffers.
    func deliver(_ bytes: UnsafeRawBufferPointer) -> Delivery {
        let length = UInt64(bytes.count)
        let result = makeRoom(length)
        guard case .done = result, let window, let base = bytes.baseAddress else { return result }
        var copy = unsafe BufferCopy(
            window, byteCount: receiveHeader + length, header: (0, 0), size: receiveHeader)
        unsafe copy.put(base, bytes.count)
        return complete(length, window)
    }

    private func makeRoom(_ length: UInt64) -> Delivery {
        guard let receiving, let window else { return .dropped }
        let wanted = receiveHeader + length
        if window.room >= wanted { return .done }
        receiving.disableNotifications()
        do throws(QueueError) {
            if try window.fill(from: receiving, wanted: wanted) > 0 { hasReceived = true }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
        }
        if window.room >= wanted { return .done }
        return window.isFull || receiving.isBroken ? .dropped : .noRoom
    }

    private func complete(_ length: UInt64, _ window: ReceiveWindow) -> Delivery {
        guard let receiving else { return .dropped }
        // It stays where it is, and the next one is written over it.
        if let filter, !filter.passes(window, headerSize: receiveHeader) { return .dropped }
        window.complete(receiveHeader + length, flags: nil, to: receiving)
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

/// Fills a window's buffers, one after the other.
// SAFETY: the window lists parts for all bytes that are put; whoever puts them sees to that.
@unsafe private struct BufferCopy {
    private let parts: UnsafeMutablePointer<iovec>
    private let count: Int
    private var part = 0
    private var offset = 0

    /// Begins with the header of virtio.
    init(
        _ window: ReceiveWindow, byteCount: UInt64, header: (UInt64, UInt16), size: UInt64
    ) {
        unsafe parts = window.parts
        unsafe count = window.list(from: 0, byteCount: byteCount).parts
        var bytes = (header.0.littleEndian, UInt32(header.1).littleEndian)
        unsafe withUnsafeBytes(of: &bytes) { bytes in
            if let base = bytes.baseAddress { unsafe put(base, Int(size)) }
        }
    }

    mutating func put(_ bytes: UnsafeRawPointer, _ byteCount: Int) {
        var from = unsafe bytes
        var left = byteCount
        while left > 0, unsafe part < count {
            let target = unsafe parts[part]
            let size = unsafe min(left, target.iov_len - offset)
            if let base = unsafe target.iov_base { unsafe memcpy(base + offset, from, size) }
            unsafe from += size
            left -= size
            unsafe offset += size
            if unsafe offset == target.iov_len {
                unsafe part += 1
                unsafe offset = 0
            }
        }
    }
}
