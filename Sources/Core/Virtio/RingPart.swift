internal import CLinux
internal import Synchronization

/// One part of a ring in guest memory, which the driver changes at any time. Each load reads memory
/// exactly once; each access says how it is ordered.
// SAFETY: whoever makes a RingPart has checked that the part is mapped for the life of the queue
// and that its base is aligned; whoever uses one stays inside the part, with naturally aligned
// offsets (all offsets below are computed from the queue's size, never taken from the guest
// unchecked). An Atomic has the size and layout of its value.
@safe struct RingPart: BitwiseCopyable {
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { unsafe self.base = base }

    @inline(__always)
    func loadRelaxed16(_ offset: Int) -> UInt16 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.load(ordering: .relaxed)
    }

    @inline(__always)
    func loadAcquiring16(_ offset: Int) -> UInt16 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.load(ordering: .acquiring)
    }

    @inline(__always)
    func loadRelaxed32(_ offset: Int) -> UInt32 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
            .pointee.load(ordering: .relaxed)
    }

    @inline(__always)
    func loadRelaxed64(_ offset: Int) -> UInt64 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
            .pointee.load(ordering: .relaxed)
    }

    @inline(__always)
    func loadAcquiring64(_ offset: Int) -> UInt64 {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
            .pointee.load(ordering: .acquiring)
    }

    @inline(__always)
    func storeRelaxed16(_ offset: Int, _ value: UInt16) {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.store(value, ordering: .relaxed)
    }

    @inline(__always)
    func storeReleasing16(_ offset: Int, _ value: UInt16) {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.store(value, ordering: .releasing)
    }

    @inline(__always)
    func storeRelaxed32(_ offset: Int, _ value: UInt32) {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
            .pointee.store(value, ordering: .relaxed)
    }

    @inline(__always)
    func storeReleasing64(_ offset: Int, _ value: UInt64) {
        unsafe (base + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
            .pointee.store(value, ordering: .releasing)
    }

    /// What is there will be read soon.
    @inline(__always)
    func prefetch(_ offset: Int) { unsafe clinux_prefetch(base + offset) }

    /// Something will be written there soon.
    @inline(__always)
    func prefetchWrite(_ offset: Int) { unsafe clinux_prefetch_write(base + offset) }
}

extension RingPart {
    /// Finds a part in guest memory: aligned, and all of it in one region.
    init(
        _ part: QueuePart, _ address: GuestAddress, count: Int, alignment: UInt64,
        in memory: GuestMemory
    ) throws(QueueError) {
        guard address.rawValue % alignment == 0 else { throw .misaligned(part, address) }
        guard let host = unsafe memory.hostAddress(address, count: UInt64(count)) else {
            throw .partOutsideMemory(part, address, count: UInt64(count))
        }
        // A region may begin anywhere in a page; what counts for the processor is the host address.
        guard UInt(bitPattern: host) % UInt(alignment) == 0 else {
            throw .misaligned(part, address)
        }
        unsafe self.init(host)
    }
}

/// A descriptor as it was at the moment of reading: two 8-byte words.
struct Descriptor {
    static let size = 16

    let address: UInt64
    /// The rest: the length in the low half, two 16-bit fields above.
    let word: UInt64

    var length: UInt32 { UInt32(truncatingIfNeeded: word) }

    /// Split: `flags`. Packed: the buffer's id.
    var third: UInt16 { UInt16(truncatingIfNeeded: word >> 32) }

    /// Split: `next`. Packed: `flags`.
    var fourth: UInt16 { UInt16(truncatingIfNeeded: word >> 48) }
}

/// Descriptor flags (VIRTIO 1.3, sections 2.7.5 and 2.8.1).
enum DescriptorFlag {
    static let next: UInt16 = 1 << 0  // VIRTQ_DESC_F_NEXT
    static let write: UInt16 = 1 << 1  // VIRTQ_DESC_F_WRITE
    static let indirect: UInt16 = 1 << 2  // VIRTQ_DESC_F_INDIRECT
    static let available: UInt16 = 1 << 7  // VIRTQ_DESC_F_AVAIL
    static let used: UInt16 = 1 << 15  // VIRTQ_DESC_F_USED
}

/// Whether moving an index from `old` to `new` passes the other side's `event` (the
/// vring_need_event of VIRTIO 1.3, section 2.7.7).
@inline(__always)
func passesEvent(_ event: UInt16, new: UInt16, old: UInt16) -> Bool {
    new &- event &- 1 < new &- old
}
