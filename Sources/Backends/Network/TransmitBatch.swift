internal import CLinux
internal import Core
internal import Glibc

/// Frames on their way from the ring to the up-link, in the ring's order. A chain of the ring holds
/// one, or what several are made of.
///
/// Its room is for what a driver can ask for at most, and is in memory only as far as it was used.
// SAFETY: the arrays belong to this object, and so do the chains, which are not counted as they are
// used: that would take as long as the rest. All indices are below their capacities, because a chain
// is added only where `hasRoom` says so, and has at most `FrameLimit.parts` parts and makes at most
// `Segmenter.segmentLimit` frames.
@safe final class TransmitBatch {
    static let chainLimit = 64
    private static let frameLimit = 4096
    private static let partLimit = 8192
    /// What one call takes.
    static let callLimit = 1024
    private static let headerSize = Segmenter.prefixLimit + 8
    private static let headerRoom = 1 << 20
    /// What one chain may come to: each segment has a header, and begins inside a part or with it.
    private static let partsOfChain = 2 * Segmenter.segmentLimit + FrameLimit.parts + 1

    private let chains: UnsafeMutablePointer<Unmanaged<DescriptorChain>>
    private let memory: UnsafeMutableRawPointer
    /// Where the parts of each frame end, and those of each chain.
    private let ends: UnsafeMutablePointer<UInt32>
    private let chainEnds: UnsafeMutablePointer<UInt32>
    /// What is to be sent, with `count` parts; those before `next` are gone.
    let parts: UnsafeMutablePointer<iovec>
    /// Lengths in the order of the network, and headers.
    private let headers: UnsafeMutableRawPointer
    private var headerBytes = 0
    private(set) var count = 0
    private(set) var next = 0
    /// A piece of the next frame has been sent.
    private(set) var isTorn = false
    private(set) var frameCount = 0
    /// The first frame that has not been sent as a whole.
    private var nextFrame = 0
    private(set) var chainCount = 0
    /// Chains that have been given back.
    private var doneCount = 0
    /// Chains that were taken ahead, and how many of them have been given back one by one.
    private var aheadCount = 0
    private var passedCount = 0

    init() {
        unsafe chains = .allocate(capacity: Self.chainLimit)
        for index in 0..<Self.chainLimit {
            unsafe (chains + index).initialize(to: .passRetained(DescriptorChain(capacity: 4)))
        }
        // So much comes from the kernel, page by page.
        unsafe memory = .allocate(
            byteCount: Self.partLimit * MemoryLayout<iovec>.stride + Self.frameLimit * 4
                + Self.chainLimit * 4 + Self.headerRoom, alignment: 16)
        unsafe parts = memory.bindMemory(to: iovec.self, capacity: Self.partLimit)
        unsafe ends = (memory + Self.partLimit * MemoryLayout<iovec>.stride).bindMemory(
            to: UInt32.self, capacity: Self.frameLimit)
        unsafe chainEnds = ends + Self.frameLimit
        unsafe headers = UnsafeMutableRawPointer(chainEnds + Self.chainLimit)
    }

    deinit {
        for index in 0..<Self.chainLimit { unsafe chains[index].release() }
        unsafe chains.deallocate()
        unsafe memory.deallocate()
    }

    var isEmpty: Bool { chainCount == 0 }

    /// Whether any chain fits.
    var hasRoom: Bool {
        chainCount < Self.chainLimit && count + Self.partsOfChain <= Self.partLimit
            && frameCount + Segmenter.segmentLimit <= Self.frameLimit
            && headerBytes + Segmenter.segmentLimit * Self.headerSize <= Self.headerRoom
    }

    /// Where the next chain goes; there is one if `hasRoom`.
    var freeChain: DescriptorChain { unsafe chains[free].takeUnretainedValue() }

    private var free: Int { passedCount + chainCount }

    /// Likewise, for what is done for each frame.
    @inline(__always)
    func withFreeChain<R>(_ body: (DescriptorChain) -> R) -> R {
        unsafe chains[free]._withUnsafeGuaranteedRef(body)
    }

    // MARK: One by one

    /// Frames that were taken ahead and not given back.
    var hasAhead: Bool { passedCount < aheadCount }

    /// Takes several chains, the next of which is in `freeChain`. For those who add none, or one and
    /// then clear the batch.
    /// - Parameter limit: up to `chainLimit`.
    /// - Returns: whether there is one.
    @inline(__always)
    func takeAhead(from queue: Virtqueue, limit: Int) throws(QueueError) -> Bool {
        if passedCount < aheadCount { return true }
        passedCount = 0
        aheadCount = 0
        aheadCount = try unsafe queue.pop(into: chains, limit: limit)
        return aheadCount > 0
    }

    /// Gives back the chain in `freeChain`, and goes on to the next.
    @inline(__always)
    func passAhead(to queue: Virtqueue) {
        unsafe queue.push(chains[passedCount], written: 0)
        passedCount += 1
    }

    // MARK: Adding

    /// Takes the next chain to `freeChain`.
    /// - Returns: whether there was one.
    func pop(from queue: Virtqueue) throws(QueueError) -> Bool {
        try unsafe queue.pop(into: chains[chainCount])
    }

    /// Adds the frame in `freeChain` as it is.
    /// - Parameters:
    ///   - skip: bytes at its start that are not sent.
    ///   - hasLength: its length goes first.
    func add(skipping skip: UInt64, hasLength: Bool) {
        withFreeChain { chain in
            if hasLength {
                let length = Int(truncatingIfNeeded: chain.readableLength &- skip)
                _ = unsafe addHeader(
                    UnsafeRawBufferPointer(start: nil, count: 0), count: 0, frameLength: length,
                    hasLength: true)
            }
            let buffers = unsafe chain.readable
            var left = Int(truncatingIfNeeded: skip)
            for index in 0..<buffers.count {
                var part = unsafe buffers[index]
                let size = unsafe min(left, part.iov_len)
                left -= size
                guard unsafe size < part.iov_len else { continue }
                unsafe part.iov_base += size
                unsafe part.iov_len -= size
                unsafe addPart(part)
            }
        }
        endFrame()
        endChain()
    }

    /// Adds a frame's first part.
    /// - Parameters:
    ///   - count: how many of `bytes` it consists of.
    ///   - frameLength: of the whole frame, which goes first if `hasLength`.
    /// - Returns: the copy of the bytes, which may be changed until the frame is sent.
    func addHeader(
        _ bytes: UnsafeRawBufferPointer, count: Int, frameLength: Int, hasLength: Bool
    ) -> UnsafeMutableRawPointer {
        let start = unsafe headers + headerBytes
        let prefix = hasLength ? 4 : 0
        if hasLength {
            unsafe start.storeBytes(
                of: UInt32(truncatingIfNeeded: frameLength).bigEndian, as: UInt32.self)
        }
        if let base = bytes.baseAddress { unsafe memcpy(start + prefix, base, count) }
        unsafe addPart(iovec(iov_base: start, iov_len: prefix + count))
        headerBytes += (prefix + count + 7) & ~7
        return unsafe start + prefix
    }

    func addPart(_ part: iovec) {
        unsafe (parts + count).initialize(to: part)
        count += 1
    }

    func endFrame() {
        unsafe (ends + frameCount).initialize(to: UInt32(truncatingIfNeeded: count))
        frameCount += 1
    }

    /// The chain in `freeChain` has been added, or nothing of it is sent.
    func endChain() {
        unsafe (chainEnds + chainCount).initialize(to: UInt32(truncatingIfNeeded: count))
        chainCount += 1
    }

    // MARK: Sending

    /// So many bytes are gone.
    func advance(by byteCount: Int) {
        var left = byteCount
        while left > 0, next < count {
            let length = unsafe parts[next].iov_len
            if left < length {
                unsafe parts[next].iov_base += left
                unsafe parts[next].iov_len -= left
                passFrames()
                isTorn = true
                return
            }
            left -= length
            next += 1
        }
        passFrames()
        isTorn = nextFrame < frameCount && next > start(of: nextFrame)
    }

    private func passFrames() {
        while nextFrame < frameCount, end(of: nextFrame) <= next { nextFrame += 1 }
    }

    private func end(of frame: Int) -> Int { Int(unsafe ends[frame]) }
    private func start(of frame: Int) -> Int { frame > 0 ? end(of: frame - 1) : 0 }

    /// Goes on to the end of the next frame, which has been sent or given up.
    func advanceFrame() {
        next = nextEnd
        passFrames()
        isTorn = false
    }

    /// The end of the parts of the first frame that has not been sent as a whole.
    var nextEnd: Int { nextFrame < frameCount ? end(of: nextFrame) : count }

    /// The end of the parts of as many frames as make up no more than so many bytes and as one call
    /// takes; one at least.
    func end(within byteCount: Int) -> Int {
        var frame = nextFrame
        var reached = next
        var left = byteCount
        while frame < frameCount {
            let end = end(of: frame)
            for part in reached..<end { left -= unsafe parts[part].iov_len }
            if reached > next, left < 0 || end - next > Self.callLimit { break }
            reached = end
            frame += 1
        }
        return reached
    }

    /// Gives up all that is left.
    func dropRest() {
        next = count
        nextFrame = frameCount
        isTorn = false
    }

    /// Gives back what has been sent.
    /// - Returns: how many chains that were.
    func giveBack(to queue: Virtqueue) -> Int {
        let before = doneCount
        while doneCount < chainCount, unsafe Int(chainEnds[doneCount]) <= next {
            unsafe queue.push(chains[doneCount], written: 0)
            doneCount += 1
        }
        let given = doneCount - before
        if doneCount == chainCount { clear() }
        return given
    }

    /// Forgets all frames.
    func clear() {
        headerBytes = 0
        count = 0
        next = 0
        frameCount = 0
        nextFrame = 0
        chainCount = 0
        doneCount = 0
        isTorn = false
    }
}
