internal import CLinux
internal import Core
internal import Glibc

/// Frames on their way from the ring to the up-link, in the ring's order.
// SAFETY: the arrays belong to this object; all indices are below their capacities, because a frame
// is added only where `hasRoom` says so, and has at most `FrameLimit.parts` parts.
@safe final class TransmitBatch {
    static let frameLimit = 64
    /// What one call takes.
    static let partLimit = 1024

    private let chains: UnsafeMutablePointer<DescriptorChain>
    /// Where the parts of each frame end.
    private let ends: UnsafeMutablePointer<Int>
    /// The frames' lengths, in the order of the network.
    private let lengths: UnsafeMutablePointer<UInt32>
    /// What is to be sent, with `count` parts; those before `next` are gone.
    let parts: UnsafeMutablePointer<iovec>
    private(set) var count = 0
    private(set) var next = 0
    /// A piece of the next frame has been sent.
    private(set) var isTorn = false
    private(set) var frameCount = 0
    /// Frames that have been given back.
    private var doneCount = 0

    init() {
        unsafe chains = .allocate(capacity: Self.frameLimit)
        for index in 0..<Self.frameLimit {
            unsafe (chains + index).initialize(to: DescriptorChain(capacity: 4))
        }
        unsafe ends = .allocate(capacity: Self.frameLimit)
        unsafe lengths = .allocate(capacity: Self.frameLimit)
        unsafe parts = .allocate(capacity: Self.partLimit)
    }

    deinit {
        unsafe chains.deinitialize(count: Self.frameLimit)
        unsafe chains.deallocate()
        unsafe ends.deallocate()
        unsafe lengths.deallocate()
        unsafe parts.deallocate()
    }

    var isEmpty: Bool { frameCount == 0 }

    /// Whether any frame fits.
    var hasRoom: Bool {
        frameCount < Self.frameLimit && count + FrameLimit.parts + 1 <= Self.partLimit
    }

    /// Where to pop the next frame to.
    var freeChain: DescriptorChain { unsafe chains[frameCount] }

    /// Adds the frame in `freeChain`.
    /// - Parameters:
    ///   - skip: bytes at its start that are not sent.
    ///   - hasLength: its length goes first.
    func add(skipping skip: UInt64, hasLength: Bool) {
        let chain = freeChain
        if hasLength {
            let length = UInt32(truncatingIfNeeded: chain.readableLength &- skip)
            let place = unsafe lengths + frameCount
            unsafe place.initialize(to: length.bigEndian)
            unsafe (parts + count).initialize(to: iovec(iov_base: place, iov_len: 4))
            count += 1
        }
        chain.trimReadable(first: skip)
        let buffers = unsafe chain.readable
        for index in 0..<buffers.count {
            unsafe (parts + count + index).initialize(to: buffers[index])
        }
        count += buffers.count
        end()
    }

    /// Adds the chain in `freeChain`, of which nothing is sent.
    func addNothing() { end() }

    private func end() {
        unsafe (ends + frameCount).initialize(to: count)
        frameCount += 1
    }

    /// So many bytes are gone.
    func advance(by byteCount: Int) {
        var left = byteCount
        while left > 0, next < count {
            let length = unsafe parts[next].iov_len
            if left < length {
                unsafe parts[next].iov_base += left
                unsafe parts[next].iov_len -= left
                isTorn = true
                return
            }
            left -= length
            next += 1
        }
        isTorn = frameCount > doneCount && next > start(of: firstUnsent)
    }

    /// Goes on to the end of the next frame, which has been sent or given up.
    func advanceFrame() {
        next = nextEnd
        isTorn = false
    }

    /// The end of the parts of the first frame that has not been sent as a whole.
    var nextEnd: Int {
        let frame = firstUnsent
        return frame < frameCount ? unsafe ends[frame] : count
    }

    private var firstUnsent: Int {
        var frame = doneCount
        while frame < frameCount, unsafe ends[frame] <= next { frame += 1 }
        return frame
    }

    private func start(of frame: Int) -> Int { frame > 0 ? unsafe ends[frame - 1] : 0 }

    /// Gives up all that is left.
    func dropRest() {
        next = count
        isTorn = false
    }

    /// Gives back what has been sent.
    /// - Returns: how many frames that were.
    func giveBack(to queue: Virtqueue) -> Int {
        let before = doneCount
        while doneCount < frameCount, unsafe ends[doneCount] <= next {
            queue.push(unsafe chains[doneCount], written: 0)
            doneCount += 1
        }
        let given = doneCount - before
        if doneCount == frameCount { clear() }
        return given
    }

    /// Forgets all frames.
    func clear() {
        count = 0
        next = 0
        frameCount = 0
        doneCount = 0
        isTorn = false
    }
}
