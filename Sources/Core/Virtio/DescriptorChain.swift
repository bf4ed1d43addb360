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
// SAFETY: `storage` belongs to this object, which initialises it once and never replaces it.
@safe public final class DescriptorChain {
    @usableFromInline let storage: UnsafeMutablePointer<ChainStorage>

    /// - Parameter capacity: pieces to have room for from the start; it grows when a driver sends
    ///   more, up to a limit above which the driver is in error.
    public init(capacity: Int = 32) {
        unsafe storage = .allocate(capacity: 1)
        unsafe storage.initialize(to: ChainStorage(capacity: capacity))
    }

    deinit {
        unsafe storage.deinitialize(count: 1)
        unsafe storage.deallocate()
    }

    /// Split: the index of the first descriptor, below the queue's size. Packed: the buffer's id,
    /// which may be any number.
    @inlinable public var id: UInt16 { unsafe storage.pointee.id }

    /// How many descriptors of the ring itself the chain takes up.
    @inlinable public var descriptorCount: UInt16 { unsafe storage.pointee.descriptorCount }

    /// Whether all buffers are there (see `QueueSetup.leavesOutUnreachable`). A request that is not
    /// whole can only be answered with an error.
    @inlinable public var isWhole: Bool { unsafe storage.pointee.isWhole }

    /// Bytes the driver provides.
    @inlinable public var readableLength: UInt64 { unsafe storage.pointee.readableLength }

    /// Bytes the driver has room for.
    @inlinable public var writableLength: UInt64 { unsafe storage.pointee.writableLength }

    /// The buffers to read, as far as they have not been trimmed off. Borrowed: valid until the
    /// next pop into this chain. Elements may be changed.
    @inlinable public var readable: UnsafeMutableBufferPointer<iovec> {
        let start = unsafe storage.pointee.readableStart
        return unsafe UnsafeMutableBufferPointer(
            start: storage.pointee.iovecs + start, count: storage.pointee.readableEnd - start)
    }

    /// The buffers to write, likewise.
    @inlinable public var writable: UnsafeMutableBufferPointer<iovec> {
        let start = unsafe storage.pointee.writableStart
        return unsafe UnsafeMutableBufferPointer(
            start: storage.pointee.iovecs + start, count: storage.pointee.writableEnd - start)
    }

    /// Takes `byteCount` bytes off the front of `readable`, for example a header that was read.
    public func trimReadable(first byteCount: UInt64) {
        unsafe storage.pointee.trimReadable(first: byteCount)
    }

    /// Takes `byteCount` bytes off the front of `writable`.
    public func trimWritable(first byteCount: UInt64) {
        unsafe storage.pointee.trimWritable(first: byteCount)
    }

    /// Takes `byteCount` bytes off the end of `writable`, for example a status byte.
    public func trimWritable(last byteCount: UInt64) {
        unsafe storage.pointee.trimWritable(last: byteCount)
    }
}
