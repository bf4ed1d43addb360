internal import Synchronization

// LOCKed accesses that cross a cache line. The host's own would be right as well, but Linux slows
// down or kills who makes them (`split_lock_detect`). In translated code only aligned ones are
// the host's.

extension CPU {
    private static let lineSize: UInt = 64

    /// Whether a value lies in two cache lines.
    @inline(__always)
    func crossesLine<T: OperandWord>(_ host: UnsafeMutableRawPointer, _: T.Type) -> Bool {
        UInt(bitPattern: host) % Self.lineSize > Self.lineSize - UInt(MemoryLayout<T>.size)
    }

    /// Replaces a value that lies in two cache lines of a page by what `body` makes of it. The
    /// caller holds the bus lock, so that no other such access is made meanwhile. Others do not hold
    /// it, and what they write stays: the words at both sides of the border change only if they are what
    /// has been read. Only a byte that another CPU writes again, as it has just been written here, goes
    /// with it if the other word has changed meanwhile.
    // SAFETY: the caller's value is in memory, and so are both words, which lie in its page.
    func modifyAcrossLines<T: OperandWord>(
        _ host: UnsafeMutableRawPointer, _: T.Type, _ body: (T) -> T
    ) {
        let place = UInt(bitPattern: host)
        let lowCount = Self.lineSize - place % Self.lineSize
        let border = unsafe host + Int(lowCount)
        let first = unsafe (border - 8).assumingMemoryBound(to: Atomic<UInt64>.self)
        let second = unsafe border.assumingMemoryBound(to: Atomic<UInt64>.self)
        let lowBits = UInt64(lowCount) * 8
        let highMask = UInt64.max >> (64 - (UInt64(MemoryLayout<T>.size) * 8 - lowBits))
        let (result, aux) = unsafe (state.pointee.flagResult, state.pointee.flagAux)
        while true {
            let low = unsafe first.pointee.load(ordering: .sequentiallyConsistent)
            let high = unsafe second.pointee.load(ordering: .sequentiallyConsistent)
            let old = low >> (64 - lowBits) | (high & highMask) << lowBits
            let new = UInt64(truncatingIfNeeded: body(T(truncatingIfNeeded: old)))
            let newLow = low & (UInt64.max >> lowBits) | new << (64 - lowBits)
            let newHigh = high & ~highMask | new >> lowBits & highMask
            if unsafe replace(second, high, newHigh) {
                if unsafe replace(first, low, newLow) { return }
                // Somebody has written to the first word. The second one becomes what it was, but
                // for what has been written to it.
                while true {
                    let now = unsafe second.pointee.load(ordering: .sequentiallyConsistent)
                    let ours = highMask & Self.equalBytes(now, newHigh)
                    if unsafe replace(second, now, now & ~ours | high & ours) { break }
                }
            }
            unsafe state.pointee.flagResult = result
            unsafe state.pointee.flagAux = aux
        }
    }

    /// All bits of the bytes that are the same in both.
    private static func equalBytes(_ one: UInt64, _ other: UInt64) -> UInt64 {
        var mask: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 8) where (one ^ other) >> shift & 0xFF == 0
        {
            mask |= 0xFF << shift
        }
        return mask
    }

    // SAFETY: as above.
    private func replace(
        _ word: UnsafeMutablePointer<Atomic<UInt64>>, _ old: UInt64, _ new: UInt64
    ) -> Bool {
        unsafe word.pointee.compareExchange(
            expected: old, desired: new, ordering: .sequentiallyConsistent
        ).exchanged
    }
}
