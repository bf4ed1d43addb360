// Accesses that the processor makes on its own behalf (descriptor tables, TSS, stacks of an
// interrupt's handler): with supervisor privilege whatever CPL is, and implicit for SMAP.

extension CPU {
    func loadSupervisor<T: FixedWidthInteger & UnsignedInteger>(
        _ linear: UInt64, as type: T.Type
    ) throws(Fault) -> T {
        try checkSystemAddress(linear)
        return T(
            truncatingIfNeeded: try load(
                linear & linearMask, size: MemoryLayout<T>.size, mode: implicitMode,
                mask: linearMask))
    }

    func storeSupervisor<T: FixedWidthInteger & UnsignedInteger>(
        _ linear: UInt64, _ value: T
    ) throws(Fault) {
        try checkSystemAddress(linear)
        try store(
            linear & linearMask, size: MemoryLayout<T>.size,
            UInt64(truncatingIfNeeded: value), mode: implicitMode, mask: linearMask)
    }

    /// Faults as the write of `size` bytes (at most a page) would.
    func probeSupervisorWrite(_ linear: UInt64, size: Int, mode: Int) throws(Fault) {
        try checkSystemAddress(linear)
        let linear = linear & linearMask
        // SAFETY for both: the entry is only made, not used.
        _ = unsafe try entry(linear, mode: mode, access: PageFaultCode.write)
        let left = 4096 - Int(linear & 0xFFF)
        if size > left {
            let second = (linear &+ UInt64(left)) & linearMask
            _ = unsafe try entry(second, mode: mode, access: PageFaultCode.write)
        }
    }

    private func checkSystemAddress(_ linear: UInt64) throws(Fault) {
        if fields.isLongMode && !isCanonical(linear) { throw .generalProtection(0) }
    }
}
