internal import Core

/// Where the things that a kernel is started with are in low memory. Linux copies or gives up all
/// of them early; none overlaps the BIOS data area or the memory that it keeps for itself.
enum BootLayout {
    static let gdt: UInt64 = 0x500
    static let startInfo: UInt64 = 0x6000
    static let bootParameters: UInt64 = 0x7000
    /// Grows down; only needed until the kernel has its own.
    static let stack: UInt64 = 0x8ff0
    /// Six pages: one level-4 table, one level-3 table, four level-2 tables.
    static let pageTables: UInt64 = 0x9000
    static let commandLine: UInt64 = 0x20000
    /// What Multiboot kernels start with, up to the end of conventional memory: they may be below it.
    /// The information, then its strings, then the GDT.
    static let multiboot: UInt64 = 0x90000
    static let multibootStrings: UInt64 = 0x91000
    static let multibootGDT: UInt64 = 0x9f000
    /// What fits, with the final zero; kernels may take less.
    static let commandLineLimit = 0x10000
}

/// Writes one 64-bit number after another.
struct GuestWriter {
    let memory: GuestMemory
    var position: UInt64

    mutating func put<T: FixedWidthInteger & BitwiseCopyable>(
        _ value: T
    ) throws(GuestMemoryError) {
        try memory.write(GuestAddress(position), value)
        position += UInt64(MemoryLayout<T>.size)
    }
}
