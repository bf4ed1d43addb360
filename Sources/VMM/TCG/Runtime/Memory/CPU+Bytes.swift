/// A page that instructions may be fetched from.
// SAFETY: the host pointer is valid as long as the guest's memory, which outlives the CPU.
@safe struct FetchPage {
    /// The guest-physical address of the page.
    var physical: UInt64
    /// Where the page is in this process; `nil` where it is not memory.
    var host: UnsafeMutableRawPointer?
}

extension CPU {
    /// Reads up to 512 bytes; faults before the first byte.
    func readBytes(
        _ linear: UInt64, _ count: Int, into target: UnsafeMutableRawPointer
    ) throws(Fault) { throw .pageFault(0) }

    /// Writes up to 512 bytes; faults before the first byte.
    func writeBytes(
        _ linear: UInt64, _ count: Int, from source: UnsafeRawPointer
    ) throws(Fault) { throw .pageFault(0) }

    /// Faults as a write would, and changes nothing but accessed and dirty bits.
    func probeWrite(_ linear: UInt64, size: Int) throws(Fault) { throw .pageFault(0) }

    /// The page that holds the code at a linear address.
    func translateFetch(_ linear: UInt64) throws(Fault) -> FetchPage { throw .pageFault(0) }

    /// The linear address of a memory operand after the segment's checks (16- and 32-bit code:
    /// type, limit, null; 64-bit code: the bases of FS and GS only).
    func checkedAddress(
        segment: UInt8, offset: UInt64, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 { throw .generalProtection(0) }

    // MARK: Pages with decoded code. The interpreter calls these; `slowStore` looks.

    /// The page holds decoded code from now on: writes to it take the slow path, which calls
    /// `invalidateCode`.
    func markCode(physical: UInt64) {}
    /// No decoded code is left in the page.
    func unmarkCode(physical: UInt64) {}
}
