/// One entry of a direct-mapped soft TLB.
///
/// A tag is a page's linear address. `tag ^ address <= 4096 - size` says at once that the page is
/// the right one and that the access does not leave it. Pages that need the slow path (devices,
/// code when written, watched pages) have a tag that matches nothing.
struct TLBEntry: BitwiseCopyable {
    var readTag: UInt64
    var writeTag: UInt64
    /// Host address minus linear address.
    var addend: UInt64
    /// The guest-physical page address, with `TLBFlags` in the low bits.
    var physical: UInt64

    /// The tag that no address of slot `index` can match: another slot's.
    @inline(__always)
    static func emptyTag(_ index: Int) -> UInt64 { UInt64(index ^ 1) << 12 }
}

enum TLBFlags {
    /// Instructions may be fetched from the page.
    static let executable: UInt64 = 1 << 0
    static let global: UInt64 = 1 << 1
    /// Not memory: every access goes to the bus.
    static let device: UInt64 = 1 << 2
    static let user: UInt64 = 1 << 3
}

/// The geometry of the soft TLB.
enum TLB {
    static let entries = 2048
    /// User, supervisor with SMAP in force, supervisor with AC set or SMAP off.
    static let modes = 3

    @inline(__always)
    static func index(_ linear: UInt64) -> Int { Int((linear >> 12) & UInt64(entries - 1)) }
}
