internal import Core
internal import Synchronization

// Which CPUs hold decoded code of which page. A write to such a page takes the slow path on every
// CPU. The writer writes, and then tells the CPUs that have marked the page, and takes their marks
// away: they compare what they look up with the bytes in memory, and mark the page again before
// they do. A mark is not taken away before the CPU has been told. So whoever finds none, and writes
// and tells nobody, knows that all CPUs with code of the page have still to look at it.
//
// A CPU that is told leaves at the next border of blocks. What it runs until then is old code,
// which the architecture allows: a processor must run new code after it has seen what was written
// behind the code, or has taken an interrupt that was sent behind it, and has then executed a
// serializing instruction (SDM volume 3, section 10.1.3; taking the interrupt is one). Who sees
// the data sees the bell, and a serializing instruction ends its block, so that the bell is looked
// at behind it. Interrupts are taken between blocks, and then all that was told before they were
// sent is looked at before their handler runs.
//
// When a page is marked first, another CPU may be in the middle of a block, and may have looked
// into its TLB before: it will write fast once more, and tell nobody. It is asked to say when it
// has left the block. Until then the page is unsettled: each instruction is decoded anew.

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
    /// Bytes that are read after this are current, or a notice of their change follows, unless the
    /// page is unsettled.
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
        // Where another CPU has code already, nobody finds a page that can be written fast.
        if old == 0 { forEachFilledSlot { slowWrites($0, page: physical >> 12) } }
        if fields.isOnlyCPU { return }
        let others = owner.core.allAPICs.filter { $0 !== owner.apic }
        if old == 0 {
            for apic in others {
                for slot in 0..<3 * TLB.entries {
                    apic.block.cpu.slowWrites(slot, page: physical >> 12)
                }
            }
            atomicMemoryFence(ordering: .sequentiallyConsistent)
        } else if others.allSatisfy({ $0.awaited.load(ordering: .sequentiallyConsistent) == 0 }) {
            return
        }
        awaitBlocks(of: others, page: physical >> 12)
    }

    /// Asks the others to say when they have left the block that they are in.
    private func awaitBlocks(of others: [LocalAPIC], page: UInt64) {
        let apic = owner.apic
        for other in others where other.block.isRunning {
            apic.awaited.bitwiseOr(other.bit, ordering: .sequentiallyConsistent)
            other.awaiting.bitwiseOr(apic.bit, ordering: .sequentiallyConsistent)
            other.block.ring()
            fields.unsettledPages.insert(page)
        }
    }

    /// Between two blocks: tells those who have asked.
    func answerAwaiting() {
        let apic = owner.apic
        guard apic.awaiting.load(ordering: .relaxed) != 0 else { return }
        let asking = apic.awaiting.exchange(0, ordering: .sequentiallyConsistent)
        for other in owner.core.allAPICs where asking & other.bit != 0 {
            other.awaited.bitwiseAnd(~apic.bit, ordering: .sequentiallyConsistent)
        }
    }

    /// Whether another CPU may still write to a page with code and tell nobody.
    @inline(__always)
    func isUnsettled(physical: UInt64) -> Bool {
        !fields.unsettledPages.isEmpty && remainsUnsettled(physical >> 12)
    }

    @inline(never)
    private func remainsUnsettled(_ page: UInt64) -> Bool {
        let apic = owner.apic
        // Who has stopped has left its block.
        for other in owner.core.allAPICs where !other.block.isRunning {
            apic.awaited.bitwiseAnd(~other.bit, ordering: .sequentiallyConsistent)
        }
        if apic.awaited.load(ordering: .sequentiallyConsistent) != 0 {
            return fields.unsettledPages.contains(page)
        }
        fields.unsettledPages = PageList()
        return false
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
        guard let word = unsafe codeWord(physical) else { return 0 }
        let marks = unsafe word.pointee.load(ordering: .relaxed)
        if marks & fields.codeBit != 0 { invalidateCode(physical: physical, count: count) }
        return marks & ~fields.codeBit
    }

    /// Call this after the write, with what `prepareWrite` has returned. A CPU that has marked the
    /// page in between may have read the old bytes.
    @inline(__always)
    func announce(_ others: UInt64, physical: UInt64) {
        if fields.isOnlyCPU { return }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        guard let word = unsafe codeWord(physical) else { return }
        let marks = unsafe word.pointee.load(ordering: .sequentiallyConsistent)
        let told = (others | marks) & ~fields.codeBit
        if told != 0 { unsafe tell(told, word) }
    }

    /// Tells CPUs that have marked a page, and takes their marks away.
    @inline(never)
    private func tell(_ others: UInt64, _ word: UnsafeMutablePointer<Atomic<UInt64>>) {
        for apic in owner.core.allAPICs where others & apic.bit != 0 {
            apic.telling.withLock { _ in
                apic.codeMayHaveChanged.store(true, ordering: .sequentiallyConsistent)
                apic.block.ring()
                unsafe _ = word.pointee.bitwiseAnd(
                    ~apic.bit, ordering: .sequentiallyConsistent)
            }
        }
    }

    /// What this CPU has decoded may have changed. Between two blocks.
    func lookAtCode() {
        let apic = owner.apic
        // Who has told takes marks away until then, which are there again after this.
        apic.telling.withLock { _ in
            apic.codeMayHaveChanged.store(false, ordering: .sequentiallyConsistent)
        }
        flushCodeLookups()
    }
}
