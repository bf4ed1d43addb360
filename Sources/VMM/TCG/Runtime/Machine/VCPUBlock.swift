internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

/// The memory of one virtual CPU, and the bell that other threads ring to get its attention:
///
///     the stack of translated code, and its frame (see Translator/HostFrame.swift)
///     FXSAVE image (512 bytes)
///     VCPUState
///           the wake-up word, whether somebody sleeps on it, and whether the CPU runs
///           what the CPU counts (see Statistics/CPUCounters.swift)
///           the soft TLB's tables and log
///           the targets of indirect branches (see Translator/TargetTable.swift)
///           the pages that code was fetched from (see State/FetchedPages.swift)
// SAFETY: offsets are computed once from the types' sizes and the mapping is as large as their
// sum. Everything belongs to the CPU's own thread, but what others use atomically: the exit request,
// the check of translated code, the bell and what is beside it, and the soft TLB's write tags.
@safe final class VCPUBlock: @unchecked Sendable {
    private let mapping: MemoryMapping
    let state: UnsafeMutablePointer<VCPUState>
    private let exitRequest: UnsafeMutablePointer<Atomic<UInt32>>
    private let hostCheck: UnsafeMutablePointer<Atomic<UInt32>>
    /// Counts rings; sleepers wait for a change.
    private let bell: UnsafeMutablePointer<Atomic<UInt32>>
    private let isWaiting: UnsafeMutablePointer<Atomic<UInt32>>
    private let running: UnsafeMutablePointer<Atomic<UInt32>>

    private static let stateOffset =
        HostFrame.stackSize + HostFrame.size + VCPUState.fxImageSize
    private static let bellOffset = (stateOffset + MemoryLayout<VCPUState>.size + 63) & ~63
    private static let counterOffset = bellOffset + 64
    private static let tlbOffset =
        (counterOffset + MemoryLayout<CPUCounters>.size + 4095) & ~4095
    /// From the frame of translated code to the tables of the soft TLB.
    static let tlbDistance = tlbOffset - HostFrame.stackSize
    private static let targetOffset = (tlbOffset + TLB.size + 4095) & ~4095
    /// From there to the tables of indirect branches' targets.
    static let targetDistance = targetOffset - HostFrame.stackSize
    private static let fetchedOffset = (targetOffset + TargetTable.size + 4095) & ~4095

    var cpu: CPU { unsafe CPU(state) }

    init(
        ram: RAMTable, windows: WindowTable, codePages: CodePageMap, index: Int
    ) throws(SystemError) {
        let (stateOffset, bellOffset) = (Self.stateOffset, Self.bellOffset)
        let tlbOffset = Self.tlbOffset
        mapping = try MemoryMapping(anonymous: Self.fetchedOffset + FetchedPages.size)
        let base = unsafe mapping.base
        let tlb = unsafe (base + tlbOffset).assumingMemoryBound(to: TLBEntry.self)
        unsafe state = (base + stateOffset).assumingMemoryBound(to: VCPUState.self)
        // The owner is set by TCGVCPU, which does not exist yet.
        let counters = unsafe (base + Self.counterOffset).assumingMemoryBound(to: CPUCounters.self)
        unsafe counters.initialize(to: CPUCounters())
        unsafe state.initialize(
            to: VCPUState(tlb: tlb, counters: counters, owner: UnsafeRawPointer(base)))
        let fetched = unsafe FetchedPages(base + Self.fetchedOffset)
        unsafe state.pointee.codeViews = InlineArray(repeating: CodeView(generation: 1, fetched))
        unsafe state.pointee.ram = ram.regions
        unsafe state.pointee.ramCount = ram.count
        unsafe state.pointee.windows = windows.entries
        unsafe state.pointee.codePages = codePages.words
        unsafe state.pointee.codePageCount = codePages.count
        unsafe state.pointee.codeBit = 1 << UInt64(index & 63)
        let field = MemoryLayout<VCPUState>.offset(of: \VCPUState.exitRequest) ?? 0
        unsafe exitRequest = (base + stateOffset + field).assumingMemoryBound(
            to: Atomic<UInt32>.self)
        unsafe hostCheck = (base + HostFrame.stackSize + Int(HostFrame.check))
            .assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe bell = (base + bellOffset).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe isWaiting = (base + bellOffset + 4).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe running = (base + bellOffset + 8).assumingMemoryBound(to: Atomic<UInt32>.self)
        // The other slots are empty as they are. Writing to them would take 256 pages.
        for mode in 0..<TLB.modes { unsafe tlb[mode * TLB.entries] = .empty(0) }
        cpu.removeTargets()
    }

    deinit { cpu.releaseCodeCache() }

    /// Makes the CPU leave its loop at the next block border, or wakes it up. Any thread.
    func ring() {
        unsafe exitRequest.pointee.store(1, ordering: .sequentiallyConsistent)
        unsafe hostCheck.pointee.store(0, ordering: .sequentiallyConsistent)
        unsafe bell.pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        if unsafe isWaiting.pointee.load(ordering: .sequentiallyConsistent) != 0 {
            unsafe _ = clinux_futex_wake(
                UnsafeMutableRawPointer(bell)
                    .assumingMemoryBound(to: UInt32.self), 1)
        }
    }

    /// Whether the CPU may be in the middle of a block. Its own thread says so.
    var isRunning: Bool {
        get { unsafe running.pointee.load(ordering: .sequentiallyConsistent) != 0 }
        set { unsafe running.pointee.store(newValue ? 1 : 0, ordering: .sequentiallyConsistent) }
    }

    /// Takes the exit request back. Whatever was announced before is looked at after this.
    func clearExitRequest() {
        unsafe _ = exitRequest.pointee.exchange(0, ordering: .sequentiallyConsistent)
    }

    /// Sleeps until somebody rings, or for `timeout` nanoseconds (negative: for ever). Returns
    /// at once if an exit request is there.
    func sleep(timeout: Int64) {
        let count = unsafe bell.pointee.load(ordering: .sequentiallyConsistent)
        unsafe isWaiting.pointee.store(1, ordering: .sequentiallyConsistent)
        if unsafe exitRequest.pointee.load(ordering: .sequentiallyConsistent) == 0 {
            unsafe _ = clinux_futex_wait(
                UnsafeMutableRawPointer(bell).assumingMemoryBound(to: UInt32.self), count,
                timeout)
        }
        unsafe isWaiting.pointee.store(0, ordering: .sequentiallyConsistent)
    }
}
