// The fast half of guest memory access: one compare and the access. Everything else (page walks,
// faults, devices, page-crossing accesses, writes to code) is in the slow half.

extension CPU {
    /// Reads guest memory at a linear address with the current privilege.
    @inline(__always)
    func load<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ linear: UInt64, as type: T.Type
    ) throws(Fault) -> T {
        // SAFETY: the index is masked, and a matching tag means that the entry's page is mapped.
        let entry = unsafe state.pointee.tlb + TLB.index(linear)
        let offset = unsafe entry.pointee.readTag ^ linear
        if offset <= UInt64(4096 - MemoryLayout<T>.size) {
            let host = unsafe UnsafeRawPointer(
                bitPattern: UInt(entry.pointee.host &+ offset)
            ).unsafelyUnwrapped
            return unsafe host.loadUnaligned(as: type)
        }
        return T(truncatingIfNeeded: try slowLoad(linear, size: MemoryLayout<T>.size))
    }

    /// Writes guest memory at a linear address with the current privilege.
    @inline(__always)
    func store<T: FixedWidthInteger & UnsignedInteger & BitwiseCopyable>(
        _ linear: UInt64, _ value: T
    ) throws(Fault) {
        // SAFETY: as in `load`.
        let entry = unsafe state.pointee.tlb + TLB.index(linear)
        let offset = unsafe entry.pointee.writeTag ^ linear
        if offset <= UInt64(4096 - MemoryLayout<T>.size) {
            let host = unsafe UnsafeMutableRawPointer(
                bitPattern: UInt(entry.pointee.host &+ offset)
            ).unsafelyUnwrapped
            unsafe host.storeBytes(of: value, as: T.self)
            return
        }
        try slowStore(linear, size: MemoryLayout<T>.size, UInt64(truncatingIfNeeded: value))
    }

    /// The host address of `size` bytes that may be written (and read) directly, or `nil` where
    /// only `load` and `store` will do. Does not fault.
    @inline(__always)
    func writableHost(_ linear: UInt64, size: Int) -> UnsafeMutableRawPointer? {
        // SAFETY: as in `load`.
        let entry = unsafe state.pointee.tlb + TLB.index(linear)
        let offset = unsafe entry.pointee.writeTag ^ linear
        guard offset <= UInt64(4096 - size) else { return nil }
        return unsafe UnsafeMutableRawPointer(bitPattern: UInt(entry.pointee.host &+ offset))
    }
}
