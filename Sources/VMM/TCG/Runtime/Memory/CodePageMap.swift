internal import Core
internal import Synchronization

// Which CPUs hold decoded code of which page. A write to such a page takes the slow path on every
// CPU. The writer takes the marks of the others away, writes, and then rings them: they compare
// what they look up with the bytes in memory, and mark the page again before they do. So a CPU
// runs old code for no longer than until it hears of the write, whoever made it; a CPU that hears
// of the data that was written after the code has heard of the code.

/// One word for each guest-physical page of the machine, a bit for each CPU.
// SAFETY: the mapping has a word for every page below `count`; words are only used atomically.
@safe final class CodePageMap: @unchecked Sendable {
    /// As many as a word has bits.
    static let maximumCPUs = 64

    private let mapping: MemoryMapping
    let count: UInt64

    init(pageCount: UInt64) throws(SystemError) {
        count = pageCount
        mapping = try MemoryMapping(anonymous: max(Int(pageCount) * 8, 8))
    }

    var words: UnsafeMutablePointer<Atomic<UInt64>> {
        unsafe mapping.base.assumingMemoryBound(to: Atomic<UInt64>.self)
    }
}

extension CPU {
    // SAFETY: the map has `codePageCount` words.
    @inline(__always)
    private func codeWord(_ physical: UInt64) -> UnsafeMutablePointer<Atomic<UInt64>>? {
        let page = physical >> 12
        guard page < fields.codePageCount, let map = unsafe state.pointee.codePages
        else { return unsafe windowCodeWord(physical) }
        return unsafe map + Int(page)
    }

    /// Whether some CPU holds decoded code of the page.
    @inline(__always)
    func hasCode(physical: UInt64) -> Bool {
        guard let word = unsafe codeWord(physical) else { return false }
        return unsafe word.pointee.load(ordering: .relaxed) != 0
    }

    /// The page holds decoded code from now on: writes to it take the slow path on all CPUs.
    /// Bytes that are read after this are current, or a notice of their change follows.
    func markCode(physical: UInt64) {
        guard let word = unsafe codeWord(physical),
            unsafe word.pointee.load(ordering: .relaxed) & fields.codeBit == 0
        else { return }
        if fields.isOnlyCPU { return unsafe mark(word, physical) }
        // Who marks the page as well waits until nobody writes fast any more.
        owner.core.marking.withLock { _ in unsafe mark(word, physical) }
    }

    private func mark(_ word: UnsafeMutablePointer<Atomic<UInt64>>, _ physical: UInt64) {
        let old = unsafe word.pointee.bitwiseOr(
            fields.codeBit, ordering: .sequentiallyConsistent
        ).oldValue
        // Where another CPU has code already, nobody writes fast.
        if old != 0 { return }
        forEachFilledSlot { slowWrites($0, page: physical >> 12) }
        if fields.isOnlyCPU { return }
        for apic in owner.core.allAPICs where apic !== owner.apic {
            for slot in 0..<3 * TLB.entries {
                apic.block.cpu.slowWrites(slot, page: physical >> 12)
            }
        }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// Takes the fast way to write to a physical page out of a slot of the TLB. Also for other
    /// CPUs' threads: see `keepSlow` for what happens when the CPU fills an entry meanwhile.
    @inline(__always)
    private func slowWrites(_ slot: Int, page: UInt64) {
        // SAFETY: the tables have `modes * entries` slots; a tag is an aligned word.
        let entry = unsafe state.pointee.tlbTables + slot
        guard unsafe entry.pointee.physical >> 12 == page else { return }
        unsafe withUnsafeMutablePointer(to: &entry.pointee.writeTag) {
            unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: Atomic<UInt64>.self)
                .pointee.store(
                    TLBEntry.emptyTag(slot & (TLB.entries - 1)),
                    ordering: .sequentiallyConsistent)
        }
    }

    /// Looks again after an entry has been made fast to write: another CPU may have marked the
    /// page in between, and not have seen the entry.
    @inline(__always)
    func keepSlow(_ entry: UnsafeMutablePointer<TLBEntry>, _ linear: UInt64) {
        if fields.isOnlyCPU { return }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        // SAFETY: the caller's entry is part of the tables.
        if unsafe hasCode(physical: entry.pointee.physical) {
            unsafe entry.pointee.writeTag = TLBEntry.emptyTag(TLB.index(linear))
        }
    }

    /// No decoded code of this CPU is left in the page. Writes become fast with the next slow one.
    func unmarkCode(physical: UInt64) {
        guard let word = unsafe codeWord(physical) else { return }
        unsafe word.pointee.bitwiseAnd(~fields.codeBit, ordering: .relaxed)
    }

    /// Call this before writing to memory (inside one page) by any but the fast path. Drops this
    /// CPU's decoded code there; the result is for `announce`.
    @inline(__always)
    func prepareWrite(physical: UInt64, count: Int) -> UInt64 {
        hasCode(physical: physical) ? prepareCodeWrite(physical: physical, count: count) : 0
    }

    @inline(never)
    private func prepareCodeWrite(physical: UInt64, count: Int) -> UInt64 {
        // A copy of the page is written.
        if fields.lockstep == Lockstep.Stage.copied { return 0 }
        let own = fields.codeBit
        let others = takeOtherMarks(physical)
        guard let word = unsafe codeWord(physical) else { return 0 }
        if unsafe word.pointee.load(ordering: .relaxed) & own != 0 {
            invalidateCode(physical: physical, count: count)
        }
        return others
    }

    /// Call this after the write, with what `prepareWrite` has returned. A CPU that has marked the
    /// page in between may have read the old bytes.
    @inline(__always)
    func announce(_ others: UInt64, physical: UInt64) {
        if fields.isOnlyCPU { return }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        var others = others
        if hasCode(physical: physical) { others |= takeOtherMarks(physical) }
        if others != 0 { tell(others) }
    }

    @inline(never)
    private func takeOtherMarks(_ physical: UInt64) -> UInt64 {
        let own = fields.codeBit
        guard let word = unsafe codeWord(physical) else { return 0 }
        return unsafe word.pointee.bitwiseAnd(own, ordering: .sequentiallyConsistent).oldValue
            & ~own
    }

    @inline(never)
    private func tell(_ others: UInt64) {
        for apic in owner.core.allAPICs where others & (1 << UInt64(apic.id & 63)) != 0 {
            apic.codeMayHaveChanged.store(true, ordering: .sequentiallyConsistent)
            apic.block.ring()
        }
    }
}
