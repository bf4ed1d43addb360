internal import Synchronization

/// Memory in which a queue notes what it has taken and not yet given back, so that another process
/// can go on after this one has been killed (vhost-user specification, "Inflight I/O tracking").
/// It is shared with the front end, which keeps it between back ends.
///
///     split   features u64, version u16, desc_num u16, last_batch_head u16, used_idx u16,
///             { inflight u8, padding u8 * 5, next u16, counter u64 } * desc_num
///     packed  features u64, version u16, desc_num u16, free_head u16, old_free_head u16,
///             used_idx u16, old_used_idx u16, used_wrap_counter u8, old_used_wrap_counter u8,
///             padding to 32, { inflight u8, padding u8, next u16, last u16, num u16, counter u64,
///             id u16, flags u16, len u32, addr u64 } * desc_num
///
/// The store order is what makes it work, so every store here is a release: whatever instruction
/// the process dies at, the stores before it are seen and those after it are not.
// SAFETY: offsets are computed from `entries`, for which the initialiser checked that they fit the
// mapping; the base is 8-aligned.
@safe public final class InflightRegion: Sendable {
    static let version: UInt16 = 1

    private let mapping: MemoryMapping
    private let offset: Int
    /// Descriptors it has room for.
    public let entries: UInt16
    public let isPacked: Bool

    /// Bytes that a queue takes up; the next queue's part follows at once.
    public static func byteCount(entries: UInt16, isPacked: Bool) -> Int {
        let bytes = isPacked ? 32 + 32 * Int(entries) : 16 + 16 * Int(entries)
        return (bytes + 63) & ~63
    }

    /// Uses the bytes from `offset` (a multiple of 8) of `mapping`.
    /// - Returns: `nil` where they do not suffice.
    public init?(_ mapping: MemoryMapping, offset: Int, entries: UInt16, isPacked: Bool) {
        let needed = Self.byteCount(entries: entries, isPacked: isPacked)
        guard entries > 0, entries <= 32768, offset >= 0, offset % 8 == 0, offset <= mapping.size,
            needed <= mapping.size - offset
        else { return nil }
        self.mapping = mapping
        self.offset = offset
        self.entries = entries
        self.isPacked = isPacked
    }

    /// Whether a queue has noted something here before.
    public var hasHistory: Bool { load16(8) != 0 }

    /// Where a packed queue's next used descriptor goes, as far as the driver has seen: bits 0-14 the
    /// position, bit 15 the wrap counter. `nil` where there is no history.
    public var packedNextUsed: UInt16? {
        guard isPacked, load16(8) == Self.version, load16(10) == entries else { return nil }
        return load16(18) & 0x7fff | UInt16(load8(21) & 1) << 15
    }

    /// Forgets everything: the queue starts afresh.
    public func clear() { store16(8, 0) }

    // MARK: Access

    func load8(_ place: Int) -> UInt8 { load(place, UInt8.self) }
    func load16(_ place: Int) -> UInt16 { load(place, UInt16.self) }
    func load32(_ place: Int) -> UInt32 { load(place, UInt32.self) }
    func load64(_ place: Int) -> UInt64 { load(place, UInt64.self) }

    private func load<T: BitwiseCopyable>(
        _ place: Int, _ type: T.Type
    ) -> T {
        unsafe (mapping.base + offset + place).loadUnaligned(as: type)
    }

    @inline(__always)
    func store8(_ place: Int, _ value: UInt8) {
        unsafe (mapping.base + offset + place).assumingMemoryBound(to: Atomic<UInt8>.self)
            .pointee.store(value, ordering: .releasing)
    }

    @inline(__always)
    func store16(_ place: Int, _ value: UInt16) {
        unsafe (mapping.base + offset + place).assumingMemoryBound(to: Atomic<UInt16>.self)
            .pointee.store(value, ordering: .releasing)
    }

    @inline(__always)
    func store32(_ place: Int, _ value: UInt32) {
        unsafe (mapping.base + offset + place).assumingMemoryBound(to: Atomic<UInt32>.self)
            .pointee.store(value, ordering: .releasing)
    }

    @inline(__always)
    func store64(_ place: Int, _ value: UInt64) {
        unsafe (mapping.base + offset + place).assumingMemoryBound(to: Atomic<UInt64>.self)
            .pointee.store(value, ordering: .releasing)
    }
}
