internal import CLinux
// The compiler counts `iovec` to whichever of the C modules it happens to load first.
internal import CURing
internal import Core

/// A range of sectors to discard or to fill with zeroes, checked and turned into bytes.
struct BlockRange: BitwiseCopyable {
    var offset: UInt64
    var length: UInt64
    /// Whether the space may be given back.
    var mayUnmap: Bool
}

/// A request that has been taken from the ring and is being worked on.
// SAFETY: the pointers lead into the chain and into `SlotTable`'s own memory, both of which live
// as long as the slot.
@safe struct RequestSlot {
    enum Phase: UInt8 {
        case free
        case read
        case write
        case flush
        case discard
        /// A range is being turned into zeroes by the file system.
        case zero
        /// A range is being overwritten with zeroes, because the file system cannot.
        case zeroByWriting
    }

    /// Storage for the driver's buffers, used again and again.
    let chain: DescriptorChain
    /// Room for `BlockLimits.ranges` ranges.
    let ranges: UnsafeMutablePointer<BlockRange>
    /// A piece of zeroes to write.
    let zeroes: UnsafeMutablePointer<iovec>

    var phase = Phase.free
    /// The rest of a transfer goes around direct I/O.
    var isCached = false
    var range: UInt32 = 0
    var rangeCount: UInt32 = 0
    /// What is left of a transfer.
    var offset: UInt64 = 0
    var remaining: UInt64 = 0
    var parts: UnsafeMutablePointer<iovec>?
    var partCount: Int32 = 0

    init(
        chain: DescriptorChain, ranges: UnsafeMutablePointer<BlockRange>,
        zeroes: UnsafeMutablePointer<iovec>
    ) {
        self.chain = chain
        unsafe self.ranges = unsafe ranges
        unsafe self.zeroes = unsafe zeroes
    }

    /// Takes `count` bytes, which were transferred, off the front of the buffers.
    mutating func advance(by count: UInt64) {
        offset &+= count
        remaining &-= count
        var left = count
        // SAFETY: `partCount` buffers follow `parts`, and both change together.
        while left > 0, partCount > 0, let part = unsafe parts {
            let length = UInt64(unsafe part.pointee.iov_len)
            if left < length {
                unsafe part.pointee.iov_base += Int(left)
                unsafe part.pointee.iov_len -= Int(left)
                return
            }
            left -= length
            unsafe parts = part + 1
            partCount -= 1
        }
    }

    /// Whether direct I/O can use the buffers: their addresses and lengths.
    func isAligned(memory: UInt64, offset: UInt64) -> Bool {
        guard let parts = unsafe parts else { return true }
        var bits: UInt64 = 0
        for i in 0..<Int(partCount) {
            let part = unsafe parts[i]
            bits |= UInt64(UInt(bitPattern: unsafe part.iov_base)) & (memory &- 1)
            bits |= UInt64(unsafe part.iov_len) & (offset &- 1)
        }
        return bits == 0
    }
}

/// The slots of a queue, one for each entry of the ring, and which of them are free. A slot is made
/// when as many requests are under way for the first time, so that a quiet queue takes little
/// memory.
// SAFETY: indices come from the table itself and are below `madeCount <= count`.
@safe final class SlotTable {
    let count: Int
    /// The first slots have been made.
    private var madeCount = 0
    /// Those of them that are in `free`; the last one there is taken next.
    private var returnedCount = 0
    private let slots: UnsafeMutablePointer<RequestSlot>
    private let free: UnsafeMutablePointer<UInt32>
    private let zeroes: UnsafeMutablePointer<iovec>

    init(count: Int) {
        self.count = count
        unsafe slots = .allocate(capacity: count)
        unsafe free = .allocate(capacity: count)
        unsafe zeroes = .allocate(capacity: count)
    }

    deinit {
        for i in 0..<madeCount { unsafe slots[i].ranges.deallocate() }
        unsafe slots.deinitialize(count: madeCount)
        unsafe slots.deallocate()
        unsafe free.deallocate()
        unsafe zeroes.deallocate()
    }

    /// Requests that are being worked on.
    var inFlight: Int { madeCount - returnedCount }

    /// The slot that is taken next, or `nil` if all are taken.
    @inline(__always)
    var nextFree: UInt32? {
        if returnedCount == 0, !makeSlot() { return nil }
        return unsafe free[returnedCount - 1]
    }

    /// Makes one more slot, which is free.
    @inline(never)
    private func makeSlot() -> Bool {
        guard madeCount < count else { return false }
        let slot = unsafe RequestSlot(
            chain: DescriptorChain(capacity: 4),
            ranges: .allocate(capacity: Int(BlockLimits.ranges)), zeroes: zeroes + madeCount)
        unsafe (slots + madeCount).initialize(to: slot)
        unsafe free[returnedCount] = UInt32(madeCount)
        madeCount += 1
        returnedCount += 1
        return true
    }

    /// Takes `nextFree`.
    @inline(__always)
    func take() { returnedCount -= 1 }

    @inline(__always)
    func release(_ slot: UInt32) {
        precondition(returnedCount < madeCount, "a slot was released twice")
        unsafe free[returnedCount] = slot
        returnedCount += 1
    }

    @inline(__always)
    subscript(index: UInt32) -> RequestSlot {
        unsafeAddress {
            precondition(index < count, "no such slot")
            return unsafe UnsafePointer(slots + Int(index))
        }
        unsafeMutableAddress {
            precondition(index < count, "no such slot")
            return unsafe slots + Int(index)
        }
    }
}
