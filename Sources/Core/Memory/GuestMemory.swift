/// Why an access to guest memory was refused.
public enum GuestMemoryError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Some of the bytes are not guest memory.
    case outOfRange(GuestAddress, count: UInt64)
    /// Two regions share an address.
    case overlap(GuestAddress)

    public var description: String {
        switch self {
        case .outOfRange(let address, let count):
            "\(count) bytes at guest address \(address) are not guest memory"
        case .overlap(let address): "two memory regions overlap at \(address)"
        }
    }
}

/// The guest's memory: an immutable, sorted list of regions. A change makes a new `GuestMemory`;
/// whoever still holds the old one can go on using it safely.
///
/// Every access names guest addresses and is checked; nothing here traps on what a guest or a
/// peer chose.
public final class GuestMemory: Sendable {
    public let regions: [GuestRegion]

    /// - Throws: `overlap`.
    public init(_ regions: [GuestRegion]) throws(GuestMemoryError) {
        let sorted = regions.sorted { $0.start < $1.start }
        for (lower, upper) in zip(sorted, sorted.dropFirst()) where upper.start <= lower.last {
            throw .overlap(upper.start)
        }
        self.regions = sorted
    }

    /// The region that holds all `count` bytes from `address`.
    @inlinable
    public func region(_ address: GuestAddress, count: UInt64) -> GuestRegion? {
        for region in regions where region.contains(address, count: count) { return region }
        return nil
    }

    /// The host address of `count` contiguous bytes, or `nil` if they are not all in one region.
    /// It stays valid while this `GuestMemory` (or the region's mapping) is held.
    @inlinable
    public func hostAddress(_ address: GuestAddress, count: UInt64) -> UnsafeMutableRawPointer? {
        guard let region = region(address, count: count) else { return nil }
        // SAFETY: the range was checked against the region.
        return unsafe region.base + Int(address.rawValue &- region.start.rawValue)
    }

    /// Calls `body` with each contiguous host piece of a guest range, in order. The whole range is
    /// checked first. `body` gets each piece's region, its offset there, and its bytes.
    public func forEachPiece(
        _ address: GuestAddress, count: UInt64,
        _ body: (GuestRegion, UInt64, UnsafeMutableRawBufferPointer) -> Void
    ) throws(GuestMemoryError) {
        try check(address, count: count)
        var next = address
        var left = count
        while left > 0, let region = region(next, count: 1) {
            let offset = next.rawValue - region.start.rawValue
            let length = min(left, region.size - offset)
            // SAFETY: offset and length lie inside the region.
            let bytes = unsafe UnsafeMutableRawBufferPointer(
                start: region.base + Int(offset), count: Int(length))
            unsafe body(region, offset, bytes)
            left -= length
            next = GuestAddress(next.rawValue &+ length)
        }
    }

    /// Throws unless all `count` bytes from `address` are guest memory (of one or several
    /// adjoining regions).
    public func check(_ address: GuestAddress, count: UInt64) throws(GuestMemoryError) {
        var next = address
        var left = count
        while left > 0 {
            guard let region = region(next, count: 1) else {
                throw .outOfRange(address, count: count)
            }
            let available = region.size - (next.rawValue - region.start.rawValue)
            if left <= available { return }
            left -= available
            guard let following = next.advanced(by: available) else {
                throw .outOfRange(address, count: count)
            }
            next = following
        }
    }

    /// Reads a value of any alignment, in host byte order.
    public func read<T: FixedWidthInteger & BitwiseCopyable>(
        _ address: GuestAddress, as type: T.Type
    ) throws(GuestMemoryError) -> T {
        if let host = unsafe hostAddress(address, count: UInt64(MemoryLayout<T>.size)) {
            // SAFETY: the bytes at `host` are mapped.
            return unsafe host.loadUnaligned(as: type)
        }
        var value: T = 0
        // SAFETY: the buffer is the value's own bytes.
        try unsafe withUnsafeMutableBytes(of: &value) { bytes throws(GuestMemoryError) in
            try unsafe read(address, into: bytes)
        }
        return value
    }

    /// Writes a value of any alignment, in host byte order.
    public func write<T: FixedWidthInteger & BitwiseCopyable>(
        _ address: GuestAddress, _ value: T
    ) throws(GuestMemoryError) {
        if let host = unsafe hostAddress(address, count: UInt64(MemoryLayout<T>.size)) {
            // SAFETY: the bytes at `host` are mapped.
            unsafe host.storeBytes(of: value, as: T.self)
            return
        }
        // SAFETY: the buffer is the value's own bytes.
        try unsafe withUnsafeBytes(of: value) { bytes throws(GuestMemoryError) in
            try unsafe write(address, from: bytes)
        }
    }

    /// Fills `buffer` from guest memory.
    public func read(
        _ address: GuestAddress, into buffer: UnsafeMutableRawBufferPointer
    ) throws(GuestMemoryError) {
        var done = 0
        try unsafe forEachPiece(address, count: UInt64(buffer.count)) { _, _, piece in
            // SAFETY: the pieces add up to the buffer's size.
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + piece.count])
                .copyMemory(from: UnsafeRawBufferPointer(piece))
            done += piece.count
        }
    }

    /// Copies `buffer` to guest memory.
    public func write(
        _ address: GuestAddress, from buffer: UnsafeRawBufferPointer
    ) throws(GuestMemoryError) {
        var done = 0
        try unsafe forEachPiece(address, count: UInt64(buffer.count)) { _, _, piece in
            // SAFETY: the pieces add up to the buffer's size.
            unsafe piece.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: buffer[done..<done + piece.count]))
            done += piece.count
        }
    }

    /// Copies `buffer` to guest memory that has probably not been touched before: through the
    /// memory's file where that can be written to, which takes one page fault less for each page
    /// and does not clear it first.
    package func load(
        _ address: GuestAddress, from buffer: UnsafeRawBufferPointer
    ) throws(GuestMemoryError) {
        var done = 0
        try unsafe forEachPiece(address, count: UInt64(buffer.count)) { region, offset, piece in
            // SAFETY: the pieces add up to the buffer's size.
            let part = unsafe UnsafeRawBufferPointer(rebasing: buffer[done..<done + piece.count])
            let written = unsafe region.writeFile(at: offset, part)
            unsafe UnsafeMutableRawBufferPointer(rebasing: piece[written...])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: part[written...]))
            done += piece.count
        }
    }

    /// Copies bytes to guest memory.
    public func write(_ address: GuestAddress, _ bytes: [UInt8]) throws(GuestMemoryError) {
        // SAFETY: the buffer is used only during the call.
        try unsafe bytes.span.withUnsafeBytes { buffer throws(GuestMemoryError) in
            try unsafe write(address, from: buffer)
        }
    }

    /// Reads `count` bytes.
    public func readBytes(_ address: GuestAddress, count: Int) throws(GuestMemoryError) -> [UInt8] {
        try check(address, count: UInt64(count))
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the buffer is used only during the call.
        var span = bytes.mutableSpan
        try unsafe span.withUnsafeMutableBytes { buffer throws(GuestMemoryError) in
            try unsafe read(address, into: buffer)
        }
        return bytes
    }
}
