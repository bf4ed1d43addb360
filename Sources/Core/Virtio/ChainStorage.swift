public import Glibc

/// What a `DescriptorChain` holds. It is a struct behind a pointer, not the fields of the class,
/// because each access to a field of a class is checked for exclusivity and often counts
/// references: that tripled the time of a pop.
// SAFETY: the arrays belong to this value and hold `capacity` elements, of which `count` are
// initialised; `readableCount <= count <= capacity`. Bases and lengths in them were checked against
// guest memory when they were appended.
@usableFromInline @safe struct ChainStorage: ~Copyable {
    /// Most descriptors of a chain, unless the ring itself is larger: an indirect table may be
    /// longer than the ring. The limit is also what `preadv` takes (IOV_MAX).
    static let descriptorLimit = 1024

    /// A piece as it was popped.
    // SAFETY: plain data; whoever follows `host` says why that is valid.
    @safe struct Piece: BitwiseCopyable {
        var host: UnsafeMutableRawPointer
        var address: UInt64
        var length: UInt64
    }

    @usableFromInline var id: UInt16 = 0
    @usableFromInline var descriptorCount: UInt16 = 0
    /// Where a packed queue notes the request while it is in flight.
    var inflightEntry: UInt16 = 0
    @usableFromInline private(set) var readableLength: UInt64 = 0
    @usableFromInline private(set) var writableLength: UInt64 = 0
    /// No buffer was left out.
    @usableFromInline private(set) var isWhole = true
    private(set) var count = 0
    private(set) var readableCount = 0
    private var capacity: Int
    @usableFromInline private(set) var iovecs: UnsafeMutablePointer<iovec>
    private(set) var pieces: UnsafeMutablePointer<Piece>

    // The part of `iovecs` that is still to be worked on.
    @usableFromInline var readableStart = 0
    @usableFromInline var readableEnd = 0
    @usableFromInline var writableStart = 0
    @usableFromInline var writableEnd = 0

    init(capacity: Int) {
        self.capacity = max(capacity, 1)
        unsafe iovecs = .allocate(capacity: self.capacity)
        unsafe pieces = .allocate(capacity: self.capacity)
    }

    deinit {
        unsafe iovecs.deallocate()
        unsafe pieces.deallocate()
    }

    /// Empties the chain.
    @inline(__always)
    mutating func reset() {
        count = 0
        readableCount = 0
        readableLength = 0
        writableLength = 0
        isWhole = true
    }

    /// Sets up the working copy once all pieces are there.
    @inline(__always)
    mutating func finish() {
        readableStart = 0
        readableEnd = readableCount
        writableStart = readableCount
        writableEnd = count
    }

    /// Appends a buffer, in as many pieces as it spans regions.
    @inline(__always)
    mutating func append(
        _ descriptor: Descriptor, isWritable: Bool, regions: inout RegionTable, limit: Int
    ) throws(QueueError) {
        let length = UInt64(descriptor.length)
        if isWritable {
            writableLength &+= length
        } else {
            guard count == readableCount else {
                throw .readableAfterWritable(head: id)
            }
            readableLength &+= length
        }
        guard let (host, available) = unsafe regions.find(descriptor.address), length <= available,
            length > 0, count < min(capacity, limit)
        else {
            return try appendSlowly(
                descriptor, isWritable: isWritable, regions: &regions, limit: limit)
        }
        unsafe add(host, descriptor.address, length, isWritable: isWritable)
    }

    @inline(__always)
    private mutating func add(
        _ host: UnsafeMutableRawPointer, _ address: UInt64, _ length: UInt64, isWritable: Bool
    ) {
        unsafe (iovecs + count).initialize(
            to: iovec(iov_base: host, iov_len: Int(truncatingIfNeeded: length)))
        unsafe (pieces + count).initialize(
            to: Piece(host: host, address: address, length: length))
        count += 1
        if !isWritable { readableCount += 1 }
    }

    /// Buffers that span regions or are behind an IOMMU, empty ones (which need no memory), and
    /// growth.
    @inline(never)
    private mutating func appendSlowly(
        _ descriptor: Descriptor, isWritable: Bool, regions: inout RegionTable, limit: Int
    ) throws(QueueError) {
        var address = descriptor.address
        var left = UInt64(descriptor.length)
        while left > 0 {
            guard
                let (host, guest, available) = unsafe regions.findSlowly(
                    address, isWritable: isWritable)
            else {
                if regions.leavesOutUnreachable { return leaveOut(left, isWritable: isWritable) }
                throw .bufferOutsideMemory(
                    GuestAddress(descriptor.address), count: descriptor.length)
            }
            guard count < limit else { throw .chainTooLong(head: id, limit: limit) }
            if count == capacity { grow(limit: limit) }
            let length = min(left, available)
            unsafe add(host, guest, length, isWritable: isWritable)
            left -= length
            // Wraps to zero at most, where a region may well begin; that is no continuation.
            address &+= length
            if left > 0, address == 0 {
                if regions.leavesOutUnreachable { return leaveOut(left, isWritable: isWritable) }
                throw .bufferOutsideMemory(
                    GuestAddress(descriptor.address), count: descriptor.length)
            }
        }
    }

    /// So many bytes are not in the chain.
    private mutating func leaveOut(_ length: UInt64, isWritable: Bool) {
        isWhole = false
        if isWritable { writableLength &-= length } else { readableLength &-= length }
    }

    private mutating func grow(limit: Int) {
        let larger = max(min(capacity * 2, limit), capacity + 1)
        let newIOVecs = UnsafeMutablePointer<iovec>.allocate(capacity: larger)
        unsafe newIOVecs.moveInitialize(from: iovecs, count: count)
        unsafe iovecs.deallocate()
        unsafe iovecs = newIOVecs
        let newPieces = UnsafeMutablePointer<Piece>.allocate(capacity: larger)
        unsafe newPieces.moveInitialize(from: pieces, count: count)
        unsafe pieces.deallocate()
        unsafe pieces = newPieces
        capacity = larger
    }
}
