internal import Core
internal import Glibc

/// A reply in the making, without the data of a READ.
// SAFETY: `bytes` belongs to this object and has room for `capacity` bytes; `count <= capacity`, and
// every access is checked against them.
@safe final class FUSEReply {
    /// The most that a reply holds besides its header: listings and extended attributes.
    static let limit = 65536
    private static let capacity = FUSELimit.replyHeader + limit

    private let bytes: UnsafeMutableRawPointer
    private(set) var count = FUSELimit.replyHeader
    /// Whom the guest is to see.
    let users: IDMap
    let groups: IDMap
    /// The device whose files the guest is to map into its window; no device if there is none.
    var mappedDevice = UInt64.max

    init(users: IDMap, groups: IDMap) {
        self.users = users
        self.groups = groups
        // Takes memory only as far as it is used.
        unsafe bytes = .allocate(byteCount: Self.capacity, alignment: 16)
    }

    deinit { unsafe bytes.deallocate() }

    /// Empties the reply.
    func clear() { count = FUSELimit.replyHeader }

    /// Bytes behind the header.
    var size: Int { count - FUSELimit.replyHeader }

    @inline(__always)
    func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        precondition(Self.capacity - count >= MemoryLayout<T>.size, "a reply is too long")
        unsafe bytes.storeBytes(of: value, toByteOffset: count, as: T.self)
        count += MemoryLayout<T>.size
    }

    func putZeroes(_ size: Int) {
        precondition(size <= Self.capacity - count, "a reply is too long")
        unsafe memset(bytes + count, 0, size)
        count += size
    }

    func put(_ source: UnsafeRawPointer, _ size: Int) {
        precondition(size <= Self.capacity - count, "a reply is too long")
        unsafe memcpy(bytes + count, source, size)
        count += size
    }

    /// Room for `size` bytes, for a system call to fill; `fill` says how many there are.
    func fill(
        _ size: Int, _ body: (UnsafeMutableRawPointer) throws(FUSEError) -> Int
    ) throws(FUSEError) {
        precondition(size <= Self.capacity - count, "a reply is too long")
        let got = try unsafe body(bytes + count)
        precondition((0...size).contains(got), "a system call has written too much")
        count += got
    }

    /// Writes the reply to a chain.
    /// - Returns: how many bytes were written; none where not even the header fits.
    func write(to chain: DescriptorChain, _ request: FUSERequest, error: Int32) -> UInt32 {
        if error != 0 { count = FUSELimit.replyHeader }
        var error = error
        if UInt64(count) > chain.writableLength {
            guard chain.writableLength >= UInt64(FUSELimit.replyHeader) else { return 0 }
            // The driver has no room for what it asked for.
            count = FUSELimit.replyHeader
            error = EINVAL
        }
        putHeader(length: UInt32(count), unique: request.unique, error: error)
        let written = unsafe chain.write(
            at: 0, from: UnsafeRawBufferPointer(start: bytes, count: count))
        return UInt32(written)
    }

    /// Writes only a header, in front of `length` bytes that the chain has already.
    func writeHeader(to chain: DescriptorChain, _ request: FUSERequest, length: UInt32) -> UInt32 {
        let total = length + UInt32(FUSELimit.replyHeader)
        putHeader(length: total, unique: request.unique, error: 0)
        _ = unsafe chain.write(
            at: 0, from: UnsafeRawBufferPointer(start: bytes, count: FUSELimit.replyHeader))
        return total
    }

    /// Writes what is no reply, but a notification, to a chain: its kind stands in place of an error.
    /// - Returns: how many bytes were written.
    func writeNotification(_ kind: Int32, to chain: DescriptorChain) -> UInt32 {
        putHeader(length: UInt32(count), unique: 0, error: -kind)
        return UInt32(
            unsafe chain.write(at: 0, from: UnsafeRawBufferPointer(start: bytes, count: count)))
    }

    /// `fuse_out_header`
    private func putHeader(length: UInt32, unique: UInt64, error: Int32) {
        unsafe bytes.storeBytes(of: length, as: UInt32.self)
        unsafe bytes.storeBytes(of: -error, toByteOffset: 4, as: Int32.self)
        unsafe bytes.storeBytes(of: unique, toByteOffset: 8, as: UInt64.self)
    }
}
