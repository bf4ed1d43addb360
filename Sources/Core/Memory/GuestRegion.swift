internal import Glibc

/// A run of guest memory that is backed by one piece of a shared file.
///
/// The memory may change at any time: guests, other vCPUs and other processes write to it. Copy a
/// value out once, check the copy, use the copy.
// SAFETY: the base address is only used for accesses that were checked against `size`, and
// `mapping` keeps it mapped for as long as a region refers to it.
@safe public struct GuestRegion: Sendable {
    public let start: GuestAddress
    public let size: UInt64
    /// The host address of `start`.
    // SAFETY: never changes; see the type.
    nonisolated(unsafe) public let base: UnsafeMutableRawPointer
    /// What keeps the memory mapped.
    public let mapping: MemoryMapping
    /// The file behind the region, to be described to other processes, and where in it the
    /// region starts.
    public let file: SharedFD?
    public let fileOffset: UInt64

    /// Describes `size` bytes of `mapping`, from `mappingOffset`, as guest memory at `start`.
    /// - Returns: `nil` where the mapping is too small or the addresses overflow.
    public init?(
        start: GuestAddress, size: UInt64, mapping: MemoryMapping, mappingOffset: UInt64 = 0,
        file: SharedFD? = nil, fileOffset: UInt64 = 0
    ) {
        guard size > 0, start.advanced(by: size - 1) != nil,
            mappingOffset <= UInt64(mapping.size), size <= UInt64(mapping.size) - mappingOffset
        else { return nil }
        self.start = start
        self.size = size
        // SAFETY: mappingOffset lies inside the mapping.
        unsafe self.base = mapping.base + Int(mappingOffset)
        self.mapping = mapping
        self.file = file
        self.fileOffset = fileOffset
    }

    /// The last byte's address.
    @inlinable
    public var last: GuestAddress { GuestAddress(start.rawValue &+ (size &- 1)) }

    /// Whether `count` bytes (at least one) from `address` all lie in this region.
    @inlinable
    public func contains(_ address: GuestAddress, count: UInt64) -> Bool {
        let offset = address.rawValue &- start.rawValue
        return address >= start && offset < size && count <= size &- offset
    }

    /// Writes bytes through the file, which brings pages without a page fault for each of them.
    /// - Parameter offset: in the region, which has room for all of `bytes`.
    /// - Returns: how many were written: fewer where the file takes no more that way, as one of
    ///   huge pages.
    func writeFile(at offset: UInt64, _ bytes: UnsafeRawBufferPointer) -> Int {
        guard let file, let place = Int(exactly: fileOffset &+ offset) else { return 0 }
        var done = 0
        while done < bytes.count {
            // SAFETY: what is left of the buffer.
            let count = try? retrying("pwrite") {
                unsafe pwrite(
                    file.rawValue, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done,
                    place + done)
            }
            guard let count, count > 0 else { break }
            done += count
        }
        return done
    }
}
