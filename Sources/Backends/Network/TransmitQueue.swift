internal import CLinux
internal import Core
internal import Glibc

/// The queue that brings frames from the driver, as the thread has it that serves it.
final class TransmitQueue {
    let queue: Virtqueue
    let batch = TransmitBatch()
    private let segmenter = Segmenter()
    private let features: UInt64
    private let headerSize: UInt64
    private let carriesHeader: Bool
    private let hasLengths: Bool
    /// The ring is empty, and a kick is waited for.
    var isIdle = false
    var isBlocked = false

    /// - Parameter headerSize: what precedes each frame.
    init(_ queue: Virtqueue, for link: any UpLink, headerSize: UInt64) {
        self.queue = queue
        self.headerSize = headerSize
        features = queue.setup.features
        carriesHeader = link.carriesHeader
        hasLengths = link.hasLengths
    }

    /// Takes the driver's next frames into the batch.
    /// - Parameter limit: the most that the batch holds then.
    /// - Returns: how many bytes those were.
    func take(_ limit: Int) -> UInt64 {
        var byteCount: UInt64 = 0
        do throws(QueueError) {
            while batch.hasRoom, batch.chainCount < limit, try batch.pop(from: queue) {
                let length = batch.withFreeChain { $0.readableLength }
                byteCount += length
                if add(length) { continue }
                networkLog.guest("a frame of the driver makes no sense, and is dropped")
                batch.endChain()
            }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
        }
        return byteCount
    }

    /// Adds what the free chain holds.
    /// - Returns: whether it is something that can be sent.
    private func add(_ length: UInt64) -> Bool {
        guard length > headerSize, length - headerSize <= FrameLimit.maximum else { return false }
        let (pieces, offloads) = batch.withFreeChain { unsafe ($0.readable.count, $0.offloads) }
        guard pieces <= FrameLimit.parts else { return false }
        if carriesHeader || offloads == 0 {
            batch.add(skipping: carriesHeader ? 0 : headerSize, hasLength: hasLengths)
            return true
        }
        guard let request = OffloadRequest(batch.freeChain, features: features) else {
            return false
        }
        return segmenter.add(request, to: batch, skipping: headerSize, hasLength: hasLengths)
    }
}

extension DescriptorChain {
    /// The first two bytes of a frame's header: flags, and the kind of segmentation.
    // SAFETY: the piece is mapped memory of its length.
    @inline(__always)
    fileprivate var offloads: UInt16? {
        let pieces = unsafe readable
        guard pieces.count > 0, unsafe pieces[0].iov_len >= 2 else {
            return read(at: 0, as: UInt16.self)
        }
        return unsafe pieces[0].iov_base.loadUnaligned(as: UInt16.self)
    }
}
