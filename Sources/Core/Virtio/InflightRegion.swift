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
    private static let version: UInt16 = 1

    /// Where the fields are that split and packed queues have in common.
    private enum Place {
        static let features = 0
        static let version = 8
        static let entryCount = 10
    }

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
    public var hasHistory: Bool { load16(Place.version) != 0 }

    /// Whether what was noted here is in the form that this version writes.
    var isReadable: Bool {
        load16(Place.version) == Self.version && load16(Place.entryCount) == entries
    }

    /// Forgets everything: the queue starts afresh.
    public func clear() { store16(Place.version, 0) }

    /// What `clear` leaves at the start of a queue's part, for one that is not mapped.
    public static var noHistory: [UInt8] { [UInt8](repeating: 0, count: Place.version + 2) }

    /// Forgets everything, and what `body` stores is the history from then on.
    func initialise(_ body: () -> Void) {
        clear()
        store64(Place.features, 0)
        store16(Place.entryCount, entries)
        body()
        store16(Place.version, Self.version)
    }

    /// Bytes at the start of a packed queue's part that `packedNextUsed` needs.
    public static let packedHeaderSize = 32

    /// Where a packed queue's next used descriptor goes, as far as the driver has seen: bits 0-14
    /// the position, bit 15 the wrap counter. `nil` where there is no history.
    /// - Parameter header: a copy of the start of the queue's part.
    public static func packedNextUsed(_ header: [UInt8], entries: UInt16) -> UInt16? {
        guard header.count >= packedHeaderSize else { return nil }
        func half(_ place: Int) -> UInt16 {
            UInt16(header[place]) | UInt16(header[place + 1]) << 8
        }
        guard half(Place.version) == version, half(Place.entryCount) == entries else { return nil }
        let position = half(PackedInflight.Place.oldUsedIndex) & 0x7fff
        return position | UInt16(header[PackedInflight.Place.oldUsedWrap] & 1) << 15
    }

    // MARK: Access

    func load8(_ place: Int) -> UInt8 { load(place, UInt8.self) }
    func load16(_ place: Int) -> UInt16 { load(place, UInt16.self) }
    func load32(_ place: Int) -> UInt32 { load(place, UInt32.self) }
    func load64(_ place: Int) -> UInt64 { load(place, UInt64.self) }

    private func load<T: BitwiseCopyable>(_ place: Int, _ type: T.Type) -> T {
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
