internal import CLinux
internal import Core
internal import Glibc

/// The queue of a switch's port by which frames come from a driver.
// SAFETY: the chain keeps the driver's buffers mapped as long as the queue is here, and belongs to
// the batch. All that is read of them is checked against their lengths first.
@safe final class PortSender {
    /// A frame that lies in the driver's buffers.
    @safe struct Frame {
        /// Addresses as numbers; no sender: the frame makes no sense.
        var destination: UInt64 = 0
        var origin: UInt64 = 0
        /// Without header.
        var length: UInt64 = 0
        /// The first eight bytes of the header, and the two after them.
        var header: UInt64 = 0
        var checksumOffset: UInt16 = 0
        /// Where all of it is, if it lies in one piece.
        var bytes: UnsafeRawPointer?

        /// Whether nothing is left to do.
        var isFinished: Bool { header & 0xffff == 0 }
    }

    private static let linkHeader: UInt64 = 14
    private static let headLimit = 12 + 14
    /// Frames that are taken from the ring at once.
    private static let aheadLimit = 32

    let queue: Virtqueue
    private let headerSize: UInt64
    private let features: UInt64
    private let batch = TransmitBatch()
    private let segmenter = Segmenter()
    private var hasSent = false

    init(_ queue: Virtqueue) {
        self.queue = queue
        features = queue.setup.features
        headerSize = FrameHeader.size(features: features)
    }

    /// Shows the driver what was sent.
    func publish() {
        guard hasSent else { return }
        hasSent = false
        if queue.publish() { queue.setup.call?.signalIfRoom() }
    }

    /// Whether frames have left the ring that are still to be looked at.
    var hasAhead: Bool { batch.hasAhead }

    /// Looks at the driver's next frame.
    /// - Parameter limit: how many frames will be asked for, about.
    @inline(__always)
    func take(_ limit: Int) -> Frame? {
        do throws(QueueError) {
            guard try batch.takeAhead(from: queue, limit: min(limit, Self.aheadLimit)) else {
                return nil
            }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
            return nil
        }
        return batch.withFreeChain { readHead($0) }
    }

    /// The frame has gone, or is given up.
    func giveBack() {
        batch.passAhead(to: queue)
        hasSent = true
    }

    // MARK: The driver's buffers

    @inline(__always)
    private func readHead(_ chain: DescriptorChain) -> Frame {
        let total = chain.readableLength
        var frame = Frame()
        guard total >= headerSize + Self.linkHeader, total - headerSize <= FrameLimit.maximum
        else { return frame }
        frame.length = total - headerSize
        let first = unsafe chain.readable[0]
        guard unsafe first.iov_len >= Self.headLimit, let base = unsafe first.iov_base else {
            readScatteredHead(chain, &frame)
            return frame
        }
        unsafe parse(UnsafeRawPointer(base), &frame)
        if unsafe UInt64(first.iov_len) == total {
            unsafe frame.bytes = UnsafeRawPointer(base + Int(headerSize))
        }
        return frame
    }

    @inline(never)
    private func readScatteredHead(_ chain: DescriptorChain, _ frame: inout Frame) {
        unsafe withUnsafeTemporaryAllocation(byteCount: Self.headLimit, alignment: 8) { head in
            guard unsafe chain.read(at: 0, into: head) >= Int(headerSize + Self.linkHeader),
                let base = head.baseAddress
            else { return }
            unsafe parse(UnsafeRawPointer(base), &frame)
        }
    }

    /// - Parameter head: a header, and that of Ethernet.
    @inline(__always)
    private func parse(_ head: UnsafeRawPointer, _ frame: inout Frame) {
        frame.header = unsafe UInt64(littleEndian: head.loadUnaligned(as: UInt64.self))
        frame.checksumOffset = unsafe UInt16(
            littleEndian: head.loadUnaligned(fromByteOffset: 8, as: UInt16.self))
        let start = unsafe head + Int(headerSize)
        // The first two bytes of what follows an address are not part of it.
        frame.destination = unsafe UInt64(bigEndian: start.loadUnaligned(as: UInt64.self)) >> 16
        frame.origin =
            unsafe UInt64(bigEndian: start.loadUnaligned(fromByteOffset: 6, as: UInt64.self)) >> 16
    }

    /// Calls `body` with the pieces of the frame that was taken, without header.
    func forEachPiece(_ body: (UnsafeRawPointer, Int) -> Void) {
        batch.withFreeChain { chain in
            var skip = Int(headerSize)
            let pieces = unsafe chain.readable
            for index in 0..<pieces.count {
                let piece = unsafe pieces[index]
                let count = unsafe piece.iov_len
                if skip >= count {
                    skip -= count
                    continue
                }
                if let base = unsafe piece.iov_base { unsafe body(base + skip, count - skip) }
                skip = 0
            }
        }
    }

    /// What the driver has left to do; `nil` if that makes no sense.
    var request: OffloadRequest? { OffloadRequest(batch.freeChain, features: features) }

    /// What it has left to do with the frame as it was taken. It may write another header meanwhile.
    func request(of frame: Frame) -> OffloadRequest? {
        OffloadRequest(
            header: frame.header, checksumOffset: frame.checksumOffset, features: features)
    }

    /// Writes the frame that was taken, or what it is to be cut into, to `place`, each with its length
    /// before it, as on a stream.
    /// - Returns: how many bytes that were; none if the frame makes no sense.
    func finish(_ frame: Frame, into place: UnsafeMutableRawBufferPointer) -> Int {
        defer { batch.clear() }
        if frame.isFinished {
            batch.add(skipping: headerSize, hasLength: true)
        } else {
            guard let request, unsafe batch.freeChain.readable.count <= FrameLimit.parts,
                segmenter.add(request, to: batch, skipping: headerSize, hasLength: true)
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
}
