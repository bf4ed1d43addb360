internal import Glibc

// What counts of the registers, and of pages.

// SAFETY: offsets are those of the state's fields.
extension Lockstep {
    /// Bytes of the FXSAVE image and the state that count, in order. Not what the soft MMU and the
    /// code cache keep, nor the upper halves, which come with a word that says whether they count.
    static let ranges: [Range<Int>] = {
        func place(_ offset: Int?) -> Int { VCPUState.fxImageSize + (offset ?? 0) }
        return [
            0..<place(MemoryLayout.offset(of: \VCPUState.upperHalves)),
            place(
                MemoryLayout.offset(of: \VCPUState.extendedComponents))..<(unsafe place(
                    MemoryLayout.offset(of: \VCPUState.tlbTables))),
            place(
                MemoryLayout.offset(of: \VCPUState.apicPage))..<place(
                    MemoryLayout.offset(of: \VCPUState.hasGlobalEntries)),
            place(
                MemoryLayout.offset(of: \VCPUState.hasDataBreakpoints))..<(unsafe place(
                    MemoryLayout.offset(of: \VCPUState.codeCache))),
        ]
    }()

    /// Whether both tiers have left the same registers.
    var hasSameState: Bool {
        let (first, second) = unsafe (state(.interpreter), state(.translator))
        for range in Self.ranges {
            let start = range.lowerBound
            if unsafe memcmp(first + start, second + start, range.count) != 0 { return false }
        }
        return hasSameUpperHalves
    }

    private var hasSameUpperHalves: Bool {
        let (first, second) = unsafe (fields(.interpreter), fields(.translator))
        let (has, hasToo) = unsafe (
            first.pointee.hasUpperHalves != 0, second.pointee.hasUpperHalves != 0
        )
        if !has && !hasToo { return true }
        for word in 0..<32 {
            let a = unsafe has ? first.pointee.upperHalves[word] : 0
            let b = unsafe hasToo ? second.pointee.upperHalves[word] : 0
            if a != b { return false }
        }
        return true
    }

    /// Whether two pages are the same.
    /// - Parameter mayHaveFlags: an exception's frame is in one of them, and the arithmetic flags
    ///   there may be others: translated code loses those that nothing reads.
    static func isSame(
        _ a: UnsafeRawPointer, _ b: UnsafeRawPointer, mayHaveFlags: Bool
    ) -> Bool {
        if unsafe memcmp(a, b, 4096) == 0 { return true }
        guard mayHaveFlags else { return false }
        var count = 0
        for offset in stride(from: 0, to: 4096, by: 8) {
            let difference =
                unsafe a.load(fromByteOffset: offset, as: UInt64.self)
                ^ b.load(fromByteOffset: offset, as: UInt64.self)
            if difference & ~RFLAGS.arithmetic != 0 { return false }
            if difference != 0 { count += 1 }
        }
        return count == 1
    }
}
