internal import CLinux
internal import Core
internal import Glibc

/// The driver's buffers that the next frames go to, in the ring's order.
// SAFETY: the arrays belong to this object, and so do the chains, which are not counted as they are
// used: that would take as long as the rest. `first` and `count` stay below and up to `capacity`, and
// `parts` holds what `FrameLimit.parts` allows and what a link adds.
@safe final class ReceiveWindow {
    private static let capacity = 64
    /// Buffers that are taken from the ring at once.
    private static let aheadLimit = 32
    /// What a link adds to the parts at their end.
    private static let extraParts = 1

    private let chains: UnsafeMutablePointer<Unmanaged<DescriptorChain>>
    private var first = 0
    private(set) var count = 0
    /// Chains behind those that were taken from the ring already.
    private var aheadCount = 0
    /// Pieces of memory in all chains.
    private var partCount = 0
    /// Bytes in all chains that can be used.
    private(set) var room: UInt64 = 0
    /// The newest chain cannot be used; it waits for its turn to be given back.
    private var lastIsUseless = false
    private let hasMergeableBuffers: Bool
    private let headerSize: UInt64
    /// For one call.
    let parts: UnsafeMutablePointer<iovec>

    init(features: UInt64) {
        hasMergeableBuffers = features & NetworkFeature.mergeableBuffers != 0
        headerSize = FrameHeader.size(features: features)
        unsafe chains = .allocate(capacity: Self.capacity)
        for index in 0..<Self.capacity {
            unsafe (chains + index).initialize(to: .passRetained(DescriptorChain(capacity: 2)))
        }
        unsafe parts = .allocate(capacity: FrameLimit.parts + Self.extraParts)
    }

    deinit {
        for index in 0..<Self.capacity { unsafe chains[index].release() }
        unsafe chains.deallocate()
        unsafe parts.deallocate()
    }

    @inline(__always)
    private func chain(_ index: Int) -> Unmanaged<DescriptorChain> {
        unsafe chains[(first + index) & (Self.capacity - 1)]
    }

    @inline(__always)
    private func withChain<R>(_ index: Int, _ body: (DescriptorChain) -> R) -> R {
        unsafe chain(index)._withUnsafeGuaranteedRef(body)
    }

    private func length(of index: Int) -> UInt64 { withChain(index) { $0.writableLength } }

    /// Whether no further buffer would add room for the next frame.
    var isFull: Bool {
        lastIsUseless || count == Self.capacity || !hasMergeableBuffers && count > 0
    }

    /// Takes buffers until there is room for `wanted` bytes, or there are no more.
    /// - Returns: how many useless ones were given back.
    func fill(from queue: Virtqueue, wanted: UInt64) throws(QueueError) -> Int {
        var useless = 0
        while room < wanted, !isFull, useless < Self.capacity {
            if aheadCount == 0, try !takeAhead(from: queue) { break }
            aheadCount -= 1
            let (pieces, length) = withChain(count) {
                unsafe ($0.writable.count, $0.writableLength)
            }
            lastIsUseless = length < headerSize || partCount + pieces > FrameLimit.parts
            if lastIsUseless, count == 0 {
                // Those that are given back are not changed.
                unsafe queue.push(chain(0), written: 0)
                first = (first + 1) & (Self.capacity - 1)
                lastIsUseless = false
                useless += 1
                continue
            }
            count += 1
            if lastIsUseless { break }
            partCount += pieces
            room += length
        }
        return useless
    }

    private func takeAhead(from queue: Virtqueue) throws(QueueError) -> Bool {
        // Up to the end of the array, where the chains begin anew.
        let start = (first + count) & (Self.capacity - 1)
        let limit = min(Self.aheadLimit, Self.capacity - max(start, count))
        aheadCount = try unsafe queue.pop(into: chains + start, limit: limit)
        return aheadCount > 0
    }

    /// Lists the memory from `offset` on, for up to `byteCount` bytes, in `parts`.
    /// - Returns: how many parts there are, and how many bytes.
    func list(from offset: UInt64, byteCount: UInt64) -> (parts: Int, bytes: UInt64) {
        var skip = offset
        var left = byteCount
        var listed = 0
        for index in 0..<usableCount where left > 0 {
            let length = length(of: index)
            if skip >= length {
                skip -= length
                continue
            }
            let buffers = unsafe withChain(index) { unsafe $0.writable }
            for piece in 0..<buffers.count where left > 0 {
                var part = unsafe buffers[piece]
                let room = UInt64(unsafe part.iov_len)
                if skip >= room {
                    skip -= room
                    continue
                }
                unsafe part.iov_base += Int(skip)
                let size = min(room - skip, left)
                unsafe part.iov_len = Int(size)
                unsafe (parts + listed).initialize(to: part)
                listed += 1
                left -= size
                skip = 0
            }
        }
        return (listed, byteCount - left)
    }

    private var usableCount: Int { lastIsUseless ? count - 1 : count }

    /// Gives back the buffers of a frame that lies in them.
    /// - Parameters:
    ///   - byteCount: header included; at most `room`.
    ///   - flags: of the header, which is otherwise empty; `nil` if it lies there as well, but for
    ///     the number of buffers.
    func complete(_ byteCount: UInt64, flags: UInt8?, to queue: Virtqueue) {
        guard usableCount > 0 else { return }
        var buffers: UInt16 = 0
        var left = byteCount
        while left > 0, Int(buffers) < usableCount {
            left -= min(left, length(of: Int(buffers)))
            buffers += 1
        }
        withChain(0) { head in
            if let flags {
                head.write(at: 0, UInt64(flags).littleEndian)
                head.write(at: 8, 0 as UInt16)
            }
            if headerSize > FrameHeader.bufferCountOffset {
                head.write(at: FrameHeader.bufferCountOffset, buffers.littleEndian)
            }
        }
        left = byteCount
        for _ in 0..<buffers {
            let written = min(left, length(of: 0))
            left -= written
            giveFirst(written: written, to: queue)
        }
        dropUseless(to: queue)
    }

    private func giveFirst(written: UInt64, to queue: Virtqueue) {
        unsafe queue.push(chain(0), written: UInt32(clamping: written))
        withChain(0) { chain in
            room -= chain.writableLength
            partCount -= unsafe chain.writable.count
        }
        first = (first + 1) & (Self.capacity - 1)
        count -= 1
    }

    /// Where the first buffer is, if so many bytes fit in it as one piece.
    @inline(__always)
    func place(for byteCount: UInt64) -> UnsafeMutableRawPointer? {
        guard usableCount > 0 else { return nil }
        return unsafe withChain(0) { chain in
            let buffers = unsafe chain.writable
            guard buffers.count > 0, unsafe UInt64(buffers[0].iov_len) >= byteCount else {
                return nil
            }
            return unsafe buffers[0].iov_base
        }
    }

    /// Gives back the first buffer, which holds a frame with its header.
    func completeFirst(_ byteCount: UInt64, to queue: Virtqueue) {
        giveFirst(written: byteCount, to: queue)
        dropUseless(to: queue)
    }

    /// Gives back a buffer that cannot be used, if it is its turn.
    private func dropUseless(to queue: Virtqueue) {
        guard lastIsUseless, count == 1 else { return }
        // It may have more pieces than there is room for, but not too many for itself.
        let (length, pieces) = withChain(0) { unsafe ($0.writableLength, $0.writable.count) }
        if length >= headerSize, pieces <= FrameLimit.parts {
            lastIsUseless = false
            partCount = pieces
            room = length
            return
        }
        unsafe queue.push(chain(0), written: 0)
        first = (first + 1) & (Self.capacity - 1)
        count = 0
        lastIsUseless = false
    }

    /// Forgets all buffers.
    func clear() {
        first = 0
        count = 0
        aheadCount = 0
        partCount = 0
        room = 0
        lastIsUseless = false
    }
}
