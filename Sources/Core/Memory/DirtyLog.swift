internal import CLinux
public import Synchronization

/// One bit for each 4 KiB page of guest memory, set by whoever writes there (vhost-user
/// specification, "Migration"). The bitmap lives in memory that the migration source reads.
public final class DirtyLog: Sendable {
    public static let pageShift: UInt64 = 12

    @usableFromInline let mapping: MemoryMapping
    /// Where the bitmap begins in the mapping.
    @usableFromInline let offset: Int
    /// Pages that the bitmap covers.
    @usableFromInline let pageCount: UInt64

    /// Uses all of `mapping` as bitmap.
    public init(_ mapping: MemoryMapping) {
        self.mapping = mapping
        offset = 0
        pageCount = UInt64(mapping.size) * 8
    }

    /// Uses `size` bytes from `offset` of `mapping` as bitmap.
    /// - Returns: `nil` where the mapping is not that large.
    public init?(_ mapping: MemoryMapping, offset: Int, size: Int) {
        guard offset >= 0, size >= 0, offset <= mapping.size, size <= mapping.size - offset
        else { return nil }
        self.mapping = mapping
        self.offset = offset
        pageCount = UInt64(size) * 8
    }

    /// Whether the owner of the bitmap's memory has taken it away.
    package var isLost: Bool { mapping.isLost }

    /// Whether the bitmap has a bit for every page of `count` bytes (at least one) from `address`.
    public func covers(_ address: GuestAddress, count: UInt64) -> Bool {
        guard let last = address.advanced(by: count - 1) else { return false }
        return last.rawValue >> Self.pageShift < pageCount
    }

    /// Whether the bitmap has a bit for every page of `memory`.
    public func covers(_ memory: GuestMemory) -> Bool {
        guard let last = memory.regions.last?.last else { return true }
        return last.rawValue >> Self.pageShift < pageCount
    }

    /// Marks the pages of `count` bytes from `address`; what the bitmap does not cover is ignored.
    @inlinable
    public func mark(_ address: GuestAddress, count: UInt64) {
        guard count > 0, pageCount > 0 else { return }
        let (end, overflow) = address.rawValue.addingReportingOverflow(count - 1)
        let first = address.rawValue >> Self.pageShift
        let last = min((overflow ? UInt64.max : end) >> Self.pageShift, pageCount - 1)
        guard first <= last else { return }
        for page in first...last {
            // SAFETY: page < pageCount, so the byte lies in the mapping, and an Atomic<UInt8> is
            // one byte.
            let byte = unsafe (mapping.base + offset + Int(page >> 3)).assumingMemoryBound(
                to: Atomic<UInt8>.self)
            unsafe byte.pointee.bitwiseOr(1 << UInt8(page & 7), ordering: .relaxed)
        }
    }

    /// Whether a page is marked.
    public func isMarked(page: UInt64) -> Bool {
        guard page < pageCount else { return false }
        // SAFETY: as in `mark`.
        let byte = unsafe (mapping.base + offset + Int(page >> 3)).assumingMemoryBound(
            to: Atomic<UInt8>.self)
        return unsafe byte.pointee.load(ordering: .relaxed) & (1 << UInt8(page & 7)) != 0
    }
}
