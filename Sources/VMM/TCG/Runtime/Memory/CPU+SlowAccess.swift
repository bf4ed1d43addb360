extension CPU {
    /// Reads up to 8 bytes in any way that the fast path cannot: after a page walk, across pages,
    /// from a device.
    @inline(never)
    func slowLoad(_ linear: UInt64, size: Int) throws(Fault) -> UInt64 {
        throw .pageFault(0)
    }

    /// Writes up to 8 bytes, likewise. Across pages both are checked before either is written.
    @inline(never)
    func slowStore(_ linear: UInt64, size: Int, _ value: UInt64) throws(Fault) {
        throw .pageFault(0)
    }
}
