internal import Core
internal import Glibc

/// A request without its data, copied out of guest memory, where it could change: what is checked
/// here is what is used. Everything is little-endian, as on the only host that there is.
// SAFETY: `bytes` belongs to this object and has room for `limit` bytes, of which the first `count`
// are the request's; `position <= count`.
@safe final class FUSERequest {
    /// The most that is copied: a header, arguments, a name and an extended attribute.
    private static let limit =
        FUSELimit.requestHeader + 64 + 2 * (FUSELimit.path + 1) + FUSELimit.attributeValue

    private let bytes: UnsafeMutableRawPointer
    private var count = 0
    private var position = 0

    // The header (`fuse_in_header`).
    private(set) var rawOpcode: UInt32 = 0
    private(set) var unique: UInt64 = 0
    private(set) var nodeID: UInt64 = 0
    private(set) var user: UInt32 = 0
    private(set) var group: UInt32 = 0

    init() {
        // Takes memory only as far as it is used.
        unsafe bytes = .allocate(byteCount: Self.limit, alignment: 16)
    }

    deinit { unsafe bytes.deallocate() }

    /// Takes the readable part of a chain, or of a WRITE what comes before its data.
    /// - Returns: whether there is a whole header.
    func take(_ chain: DescriptorChain) -> Bool {
        position = 0
        count = 0
        guard copy(chain, upTo: FUSELimit.requestHeader) else {
            unique = count >= 16 ? unsafe bytes.load(fromByteOffset: 8, as: UInt64.self) : 0
            return false
        }
        let length = unsafe bytes.load(as: UInt32.self)
        rawOpcode = unsafe bytes.load(fromByteOffset: 4, as: UInt32.self)
        unique = unsafe bytes.load(fromByteOffset: 8, as: UInt64.self)
        nodeID = unsafe bytes.load(fromByteOffset: 16, as: UInt64.self)
        user = unsafe bytes.load(fromByteOffset: 24, as: UInt32.self)
        group = unsafe bytes.load(fromByteOffset: 28, as: UInt32.self)
        position = FUSELimit.requestHeader
        guard UInt64(length) == chain.readableLength else { return false }
        let rest =
            rawOpcode == FUSEOpcode.write.rawValue ? FUSELimit.writeArguments : Self.limit - count
        _ = copy(chain, upTo: rest)
        return true
    }

    /// Copies more bytes behind those that are there.
    /// - Returns: whether there were `size`.
    private func copy(_ chain: DescriptorChain, upTo size: Int) -> Bool {
        let room = unsafe UnsafeMutableRawBufferPointer(
            start: bytes + count, count: min(size, Self.limit - count))
        let got = unsafe chain.read(at: UInt64(count), into: room)
        count += got
        return got == size
    }

    /// Bytes that have not been looked at.
    var rest: Int { count - position }

    /// How far the request has been looked at, to go back there.
    var mark: Int { position }

    func goBack(to mark: Int) {
        precondition(mark <= position, "a mark of another request")
        position = mark
    }

    /// The next value.
    @inline(__always)
    func next<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type) throws(FUSEError) -> T {
        let size = MemoryLayout<T>.size
        guard size <= count - position else { throw .invalid }
        defer { position += size }
        return unsafe bytes.loadUnaligned(fromByteOffset: position, as: T.self)
    }

    func skip(_ size: Int) throws(FUSEError) {
        guard size <= count - position else { throw .invalid }
        position += size
    }

    /// The next text with its NUL, at most `limit` bytes without it. Valid until the next request.
    private func text(_ limit: Int) throws(FUSEError) -> (FUSEText, count: Int) {
        let start = unsafe bytes + position
        guard rest > 0, let end = unsafe memchr(start, 0, rest) else { throw .invalid }
        let length = unsafe end - UnsafeMutableRawPointer(start)
        guard length <= limit else { throw FUSEError(ENAMETOOLONG) }
        position += length + 1
        return unsafe (FUSEText(pointer: start.assumingMemoryBound(to: CChar.self)), length)
    }

    /// The next name of something in a folder: it leads nowhere else. Valid until the next request.
    func name() throws(FUSEError) -> FUSEText {
        let (name, length) = try text(FUSELimit.name)
        guard length > 0 else { throw FUSEError(ENOENT) }
        let isSpecial = unsafe strcmp(name.pointer, ".") == 0 || strcmp(name.pointer, "..") == 0
        let hasSlash = unsafe strchr(name.pointer, Int32(UInt8(ascii: "/"))) != nil
        guard !isSpecial, !hasSlash else { throw .invalid }
        return name
    }

    /// The next text, which is no name of a file: an extended attribute's name, or what a link
    /// leads to, which only the guest follows.
    func freeText(_ limit: Int) throws(FUSEError) -> FUSEText {
        let (text, length) = try text(limit)
        guard length > 0 else { throw FUSEError(ENOENT) }
        return text
    }

    /// The next `size` bytes. Valid until the next request.
    func data(_ size: Int) throws(FUSEError) -> UnsafeRawPointer {
        let start = position
        try skip(size)
        return unsafe UnsafeRawPointer(bytes + start)
    }
}
