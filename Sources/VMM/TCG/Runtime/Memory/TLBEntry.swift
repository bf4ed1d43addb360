/// One entry of a direct-mapped soft TLB.
///
/// A tag is a page's linear address. `tag ^ address <= 4096 - size` says at once that the page is
/// the right one and that the access does not leave it. Pages that need the slow path (devices,
/// code when written, watched pages) have a tag that matches nothing.
struct TLBEntry: BitwiseCopyable {
    var readTag: UInt64
    var writeTag: UInt64
    /// The page's host address; its linear address where `TLBFlags.slow` is set.
    var host: UInt64
    /// The guest-physical page address, with `TLBFlags` in the low bits.
    var physical: UInt64

    static let stride = MemoryLayout<TLBEntry>.stride

    /// The tag that no address of slot `index` can match: another slot's. It is zero where it can
    /// be, so that fresh memory is an empty table but for its first slot.
    @inline(__always)
    static func emptyTag(_ index: Int) -> UInt64 { index == 0 ? 1 << 12 : 0 }

    /// What is in slot `index` of an empty table.
    @inline(__always)
    static func empty(_ index: Int) -> TLBEntry {
        TLBEntry(readTag: emptyTag(index), writeTag: emptyTag(index), host: 0, physical: 0)
    }

    /// The guest-physical page address.
    var page: UInt64 { physical & ~0xFFF }

    /// Whether the entry, fast or slow, is for the page at `linear`.
    @inline(__always)
    func holds(page linear: UInt64) -> Bool {
        if physical & TLBFlags.valid == 0 { return false }
        return (physical & TLBFlags.slow == 0 ? readTag : host) == linear
    }
}

enum TLBFlags {
    /// Instructions may be fetched from the page.
    static let executable: UInt64 = 1 << 0
    static let global: UInt64 = 1 << 1
    /// Not memory: every access goes to the bus.
    static let device: UInt64 = 1 << 2
    static let user: UInt64 = 1 << 3
    /// Writes are allowed and the dirty bit is set; the write tag may still not match.
    static let writable: UInt64 = 1 << 4
    /// A data breakpoint may lie in the page.
    static let watched: UInt64 = 1 << 5
    /// Neither tag matches; `host` is the linear page address.
    static let slow: UInt64 = device | watched
    static let valid: UInt64 = 1 << 6
    /// Part of a 2 or 4 MiB page, or of a 1 GiB page: INVLPG of any of its addresses drops all.
    static let large: UInt64 = 1 << 7
    static let huge: UInt64 = 1 << 8
}

/// Which soft TLB an access uses. The permissions of the mode are part of its entries.
enum TLBMode {
    static let user = 0
    /// Supervisor with SMAP in force: CR4.SMAP is set, and AC is clear or the access implicit.
    static let supervisorSMAP = 1
    static let supervisor = 2
    /// User with alignment checks: an empty table, so that everything takes the slow path.
    static let userAligned = 3
}

/// The geometry of the soft TLB.
enum TLB {
    static let entries = 8192
    /// User, supervisor with SMAP in force, supervisor with AC set or SMAP off, and the table
    /// that stays empty.
    static let modes = 4
    static let logCapacity = 3 * entries
    static let size =
        modes * entries * MemoryLayout<TLBEntry>.stride + logCapacity * MemoryLayout<UInt16>.stride

    @inline(__always)
    static func index(_ linear: UInt64) -> Int { Int((linear >> 12) & UInt64(entries - 1)) }
}
