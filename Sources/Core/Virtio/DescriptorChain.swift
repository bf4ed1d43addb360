public import Glibc

/// One request, popped from a queue: the driver's buffers as pieces of host memory, first those to
/// read, then those to write.
///
/// A chain is storage to be used again and again: keep one per request slot, and popping allocates
/// nothing (but for a first chain longer than `capacity`). Its contents stay valid, also beyond
/// further pops into other chains, as long as the queue's `GuestMemory` is held and until the chain
/// is popped into again.
///
/// `readable` and `writable` are a working copy that the device may trim and change, for example
/// to hand it to `preadv`. `read`, `write` and the dirty log go by the buffers as they were popped.
/// The bytes can change at any time: copy a header out once, check the copy, use the copy.
// SAFETY: the arrays belong to this object and hold `capacity` elements, of which `count` are
// initialised; `readableCount <= count <= capacity`. Bases and lengths in them were checked against
// guest memory when they were appended.
@safe public final class DescriptorChain {
    /// Most descriptors of a chain, unless the ring itself is larger: an indirect table may be longer
    /// than the ring. The limit is also what `preadv` takes (IOV_MAX).
    static let descriptorLimit = 1024

    /// A piece as it was popped.
    // SAFETY: plain data; whoever follows `host` says why that is valid.
    @safe struct Piece: BitwiseCopyable {
        var host: UnsafeMutableRawPointer
        var address: UInt64
        var length: UInt64
    }

    /// Split: the index of the first descriptor, below the queue's size. Packed: the buffer's id,
    /// which may be any number.
    public internal(set) var id: UInt16 = 0
    /// How many descriptors of the ring itself the chain takes up.
    public internal(set) var descriptorCount: UInt16 = 0
    /// Where a packed queue notes the request while it is in flight.
    var inflightEntry: UInt16 = 0

    /// Bytes the driver provides.
    public private(set) var readableLength: UInt64 = 0
    /// Bytes the driver has room for.
    public private(set) var writableLength: UInt64 = 0

    private(set) var count = 0
    private(set) var readableCount = 0
    private var capacity: Int
    private var iovecs: UnsafeMutablePointer<iovec>
    private(set) var pieces: UnsafeMutablePointer<Piece>

    // The part of `iovecs` that is still to be worked on.
    private var readableStart = 0
    private var readableEnd = 0
    private var writableStart = 0
    private var writableEnd = 0

    /// - Parameter capacity: pieces to have room for from the start; it grows when a driver sends
    ///   more, up to a limit above which the driver is in error.
    public init(capacity: Int = 32) {
        self.capacity = max(capacity, 1)
        unsafe iovecs = .allocate(capacity: self.capacity)
        unsafe pieces = .allocate(capacity: self.capacity)
    }

    deinit {
        unsafe iovecs.deallocate()
        unsafe pieces.deallocate()
    }

    /// The buffers to read, as far as they have not been trimmed off. Borrowed: valid until the
    /// next pop into this chain. Elements may be changed.
    public var readable: UnsafeMutableBufferPointer<iovec> {
        unsafe UnsafeMutableBufferPointer(
            start: iovecs + readableStart, count: readableEnd - readableStart)
    }

    /// The buffers to write, likewise.
    public var writable: UnsafeMutableBufferPointer<iovec> {
        unsafe UnsafeMutableBufferPointer(
            start: iovecs + writableStart, count: writableEnd - writableStart)
    }

    /// Takes `byteCount` bytes off the front of `readable`, for example a header that was read.
    public func trimReadable(first byteCount: UInt64) {
        unsafe Self.trimFront(iovecs, &readableStart, readableEnd, byteCount)
    }

    /// Takes `byteCount` bytes off the front of `writable`.
    public func trimWritable(first byteCount: UInt64) {
        unsafe Self.trimFront(iovecs, &writableStart, writableEnd, byteCount)
    }

    /// Takes `byteCount` bytes off the end of `writable`, for example a status byte.
    public func trimWritable(last byteCount: UInt64) {
        var left = byteCount
        while left > 0, writableEnd > writableStart {
            let length = unsafe UInt64(iovecs[writableEnd - 1].iov_len)
            if length > left {
                unsafe iovecs[writableEnd - 1].iov_len = Int(length - left)
                return
            }
            left -= length
            writableEnd -= 1
        }
    }

    private static func trimFront(
        _ iovecs: UnsafeMutablePointer<iovec>, _ start: inout Int, _ end: Int, _ byteCount: UInt64
    ) {
        var left = byteCount
        while left > 0, start < end {
            let length = unsafe UInt64(iovecs[start].iov_len)
            if length > left {
                unsafe iovecs[start].iov_base += Int(left)
                unsafe iovecs[start].iov_len = Int(length - left)
                return
            }
            left -= length
            start += 1
        }
    }

    // MARK: Filling

    /// Empties the chain.
    @inline(__always)
    func reset() {
        count = 0
        readableCount = 0
        readableLength = 0
        writableLength = 0
    }

    /// Sets up the working copy once all pieces are there.
    @inline(__always)
    func finish() {
        readableStart = 0
        readableEnd = readableCount
        writableStart = readableCount
        writableEnd = count
    }

    /// Appends a buffer, in as many pieces as it spans regions.
    @inline(__always)
    func append(
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
    private func add(
        _ host: UnsafeMutableRawPointer, _ address: UInt64, _ length: UInt64, isWritable: Bool
    ) {
        unsafe (iovecs + count).initialize(
            to: iovec(iov_base: host, iov_len: Int(truncatingIfNeeded: length)))
        unsafe (pieces + count).initialize(
            to: Piece(host: host, address: address, length: length))
        count += 1
        if !isWritable { readableCount += 1 }
    }

    /// Buffers that span regions, empty ones (which need no memory), and growth.
    @inline(never)
    private func appendSlowly(
        _ descriptor: Descriptor, isWritable: Bool, regions: inout RegionTable, limit: Int
    ) throws(QueueError) {
        var address = descriptor.address
        var left = UInt64(descriptor.length)
        while left > 0 {
            guard let (host, available) = unsafe regions.find(address) else {
                throw .bufferOutsideMemory(
                    GuestAddress(descriptor.address), count: descriptor.length)
            }
            guard count < limit else { throw .chainTooLong(head: id, limit: limit) }
            if count == capacity { grow(limit: limit) }
            let length = min(left, available)
            unsafe add(host, address, length, isWritable: isWritable)
            left -= length
            // Wraps to zero at most, where a region may well begin; that is no continuation.
            address &+= length
            if left > 0, address == 0 {
                throw .bufferOutsideMemory(
                    GuestAddress(descriptor.address), count: descriptor.length)
            }
        }
    }

    private func grow(limit: Int) {
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
