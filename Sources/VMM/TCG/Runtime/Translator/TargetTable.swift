internal import Glibc

// Where indirect branches of translated code find the code of their targets. The entries of an
// access mode are for blocks of that mode, so a match says all but whether the block may run: that
// is what its own beginning looks at, as behind any other jump.

/// One place of a `TargetTable`: translated code for a linear address.
struct TargetEntry: BitwiseCopyable {
    var linear: UInt64
    var host: UInt

    static let stride = MemoryLayout<TargetEntry>.stride

    /// Stands for no address at a place of a table: only addresses are looked for that belong there,
    /// whether they are canonical or not.
    static func none(at place: UInt64) -> UInt64 { place ^ 1 }
}

/// The geometry of the tables: one for each `TLBMode`, at constant distances from RSP.
enum TargetTable {
    private static let userCount = 0x10000
    private static let otherCount = 0x4000

    static let size = (userCount + (TLB.modes - 1) * otherCount) * TargetEntry.stride

    /// The bits of a linear address that choose a place.
    static func mask(mode: UInt8) -> UInt32 {
        UInt32((mode == UInt8(TLBMode.user) ? userCount : otherCount) - 1)
    }

    /// Bytes from the first table's beginning.
    static func offset(mode: UInt8) -> Int {
        let number = Int(mode)
        return number == TLBMode.user
            ? 0 : (userCount + (number - 1) * otherCount) * TargetEntry.stride
    }
}

extension CPU {
    // SAFETY: the tables are part of the CPU's block, `TargetTable.size` bytes, and indices are
    // masked.
    private func target(_ linear: UInt64, mode: UInt8) -> UnsafeMutablePointer<TargetEntry> {
        let place = Int(UInt32(truncatingIfNeeded: linear) & TargetTable.mask(mode: mode))
        return unsafe (frame + VCPUBlock.targetDistance + TargetTable.offset(mode: mode))
            .assumingMemoryBound(to: TargetEntry.self) + place
    }

    /// Indirect branches find the translated code of a block.
    func addTarget(_ block: Block) {
        let (linear, host) = unsafe (block.header.pointee.linear, block.header.pointee.host)
        guard host != 0 else { return }
        unsafe target(linear, mode: HostBlock.accessMode(block)).pointee = TargetEntry(
            linear: linear, host: host)
    }

    /// They do not find it any more where it is.
    func removeTarget(_ block: Block) {
        let (linear, host) = unsafe (block.header.pointee.linear, block.header.pointee.host)
        let entry = unsafe target(linear, mode: HostBlock.accessMode(block))
        if unsafe host != 0 && entry.pointee.host == host {
            unsafe entry.pointee.linear = TargetEntry.none(at: linear)
        }
    }

    /// They find none. The tables take no memory then, but for the places of address 0.
    func removeTargets() {
        unsafe _ = madvise(
            frame + VCPUBlock.targetDistance, TargetTable.size, MADV_DONTNEED)
        for mode in 0..<UInt8(TLB.modes) {
            unsafe target(0, mode: mode).pointee = TargetEntry(
                linear: TargetEntry.none(at: 0), host: 0)
        }
    }
}
