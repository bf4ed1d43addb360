internal import Synchronization

// The state of one virtual CPU lies in one block of raw memory, so that the interpreter, the leaf
// stubs and later the translator reach every field by a constant offset:
//
//     block - 128    what translated code keeps (see Translator/HostFrame.swift)
//     block + 0      512 bytes in FXSAVE's format: x87, MMX, SSE (SDM volume 1, section 10.5.1)
//     block + 512    VCPUState
//
// Only the thread that runs the CPU touches it, except `exitRequest`.

/// Numbers of the segment registers, as instructions encode them, and of the two system segments.
enum SegmentRegister {
    static let es: UInt8 = 0
    static let cs: UInt8 = 1
    static let ss: UInt8 = 2
    static let ds: UInt8 = 3
    static let fs: UInt8 = 4
    static let gs: UInt8 = 5
    static let ldtr: UInt8 = 6
    static let tr: UInt8 = 7
}

/// A segment register with its hidden part.
struct Segment: BitwiseCopyable {
    var selector: UInt16 = 0
    /// Bits 8-15 and 20-23 of the descriptor's second word, at bits 0-7 and 12-15: type, S, DPL,
    /// P; AVL, L, D/B, G. The layout that VMX and KVM use (SDM volume 3, section 25.4.1). Bit 16:
    /// unusable (a null selector was loaded).
    var attributes: UInt32 = 0
    /// In bytes, granularity applied.
    var limit: UInt32 = 0
    var base: UInt64 = 0

    static let unusable: UInt32 = 1 << 16

    var isUsable: Bool { attributes & Self.unusable == 0 }
    var type: UInt32 { attributes & 15 }
    var isCodeOrData: Bool { attributes & 0x10 != 0 }
    var dpl: UInt8 { UInt8((attributes >> 5) & 3) }
    var isPresent: Bool { attributes & 0x80 != 0 }
    var isLong: Bool { attributes & 0x2000 != 0 }
    /// D/B: 32-bit operands, or a 32-bit stack.
    var isBig: Bool { attributes & 0x4000 != 0 }
}

/// GDTR and IDTR.
struct TableRegister: BitwiseCopyable {
    var base: UInt64 = 0
    var limit: UInt16 = 0
}

/// Everything else that one CPU is. See the file's comment for where it lies.
// SAFETY: the two pointers are set once and stay valid; see them.
@safe struct VCPUState {
    /// RAX..R15 by number; [16] is always zero (an absent base or index register).
    var registers = InlineArray<17, UInt64>(repeating: 0)
    /// The instruction pointer (not linear: CS base not added). The interpreter keeps its own
    /// while a block runs, see `CPU.execute`.
    var rip: UInt64 = 0

    /// The arithmetic flags, not yet computed (see LazyFlags.swift).
    var flagResult: UInt64 = 0
    var flagAux: UInt64 = 0
    /// All other flags of RFLAGS, in place: TF, IF, DF, IOPL, NT, RF, VM, AC, VIF, VIP, ID, and
    /// bit 1. Arithmetic flags are zero here.
    var systemFlags: UInt64 = 2

    /// What is added to an effective address, by segment number: the segment's base; zero for ES,
    /// CS, SS and DS in 64-bit mode.
    var addressBase = InlineArray<8, UInt64>(repeating: 0)

    /// The table of the current privilege and access mode.
    // SAFETY: allocated with the state and freed after it.
    var tlb: UnsafeMutablePointer<TLBEntry>
    /// Instructions retired up to the current block's end.
    var retired: UInt64 = 0
    /// Not zero: leave the loop at the next block border. Other threads store to it (atomically).
    var exitRequest: UInt32 = 0
    /// Not zero: interrupts (1) or interrupts and debug traps (2) wait for one instruction, after
    /// STI or a load of SS (SDM volume 3, section 6.8.3).
    var interruptShadow: UInt8 = 0
    /// 0-3.
    var cpl: UInt8 = 0
    /// CodeMode's raw value: 2, 4 or 8.
    var codeSize: UInt8 = 2
    /// EFER.LMA.
    var isLongMode = false
    var isHalted = false
    /// A MachineEffect's raw value that waits to be returned by `run`.
    var pendingEffect: UInt8 = 0
    /// A triple fault has happened.
    var isShutDown = false
    /// What decoded code depends on (see `ModeKey`), kept by `updateMode`.
    var modeKey: UInt32 = 0

    var segments = InlineArray<8, Segment>(repeating: Segment())
    var gdtr = TableRegister()
    var idtr = TableRegister()
    var cr0: UInt64 = 0
    var cr2: UInt64 = 0
    var cr3: UInt64 = 0
    var cr4: UInt64 = 0
    var efer: UInt64 = 0
    var debugRegisters = InlineArray<8, UInt64>(repeating: 0)

    var star: UInt64 = 0
    var lstar: UInt64 = 0
    var cstar: UInt64 = 0
    var sfmask: UInt64 = 0
    var kernelGSBase: UInt64 = 0
    var sysenterCS: UInt64 = 0
    var sysenterESP: UInt64 = 0
    var sysenterEIP: UInt64 = 0
    var tscAux: UInt64 = 0
    var tscAdjust: UInt64 = 0
    var xcr0: UInt64 = 1
    /// The upper halves of the YMM registers, and whether they mean anything: 0 says that all are
    /// zero.
    var upperHalves = InlineArray<32, UInt64>(repeating: 0)
    var hasUpperHalves: UInt32 = 0
    /// Another provider's XSAVE image in the standard form while an instruction runs on its state,
    /// for the components that are neither in the FXSAVE image nor here.
    // SAFETY: set and cleared by TCGFallback around the instruction.
    var extendedImage: UnsafeMutableRawPointer?
    /// All components beyond SSE's that XCR0 can hold (see CPU+ExtendedState.swift).
    var extendedComponents: UInt64 = 0
    /// Protection keys' rights (PKRU); 0, which forbids nothing, unless borrowed code has them.
    var protectionKeyRights: UInt32 = 0
    var hasExtendedChange = false
    /// What MXCSR can hold.
    var supportedMXCSR = FXImage.supportedMXCSR
    var pat: UInt64 = 0x0007_0406_0007_0406

    // What the soft MMU keeps (see Memory/). The pointers are set once, by VCPUBlock.

    /// All tables of the soft TLB, `TLB.modes` of them.
    // SAFETY: part of the same block as this state.
    var tlbTables: UnsafeMutablePointer<TLBEntry>
    /// Slots that hold non-global entries, so that a CR3 load need not look at all.
    // SAFETY: as above.
    var tlbLog: UnsafeMutablePointer<UInt16>
    var tlbLogCount = 0
    /// The guest's memory regions.
    // SAFETY: the machine's table outlives the CPU.
    var ram: UnsafePointer<RAMRegion>?
    var ramCount = 0
    /// The region that was used last, if one was.
    // SAFETY: as above.
    var lastRegion: UnsafePointer<RAMRegion>?
    /// What else is memory.
    // SAFETY: as above.
    var windows: UnsafeMutablePointer<WindowEntry>?
    /// The machine's CodePageMap, and this CPU's bit in it.
    // SAFETY: the machine's map outlives the CPU.
    var codePages: UnsafeMutablePointer<Atomic<UInt64>>?
    var codePageCount: UInt64 = 0
    var codeBit: UInt64 = 1
    /// Pages with code that others may still write to without notice (see CodePageMap.swift).
    var unsettledPages = PageList()
    /// The page of the local APIC's registers, or a value that is no page.
    var apicPage: UInt64 = UInt64.max
    /// Not negative: the local APIC is another provider's, and accesses are only counted.
    var apicAccesses: Int32 = -1
    /// The page directory pointers that PAE paging loads with CR3 (SDM volume 3, section 4.4.1).
    var pdptes = InlineArray<4, UInt64>(repeating: 0)
    /// A `TLBMode`: which table `tlb` points to.
    var tlbMode: UInt8 = 2
    /// There may be global entries, which are not in the log.
    var hasGlobalEntries = false
    /// Which 2 or 4 MiB pages (by 2 MiB) have entries that stand for a part of them; for 1 GiB
    /// pages it is all or none.
    var largeEntries = PageFilter<8>()
    /// The same of 1 GiB pages, by their size.
    var hugeEntries = PageFilter<1>()
    /// Some enabled debug register watches data.
    var hasDataBreakpoints = false

    /// An interrupt waits that the local APIC would deliver if IF were set.
    var interruptPending = false
    /// An NMI has been delivered and no IRET has followed yet.
    var isNMIBlocked = false
    /// NMIs that wait: one that is latched, and before it one that will be taken next.
    var pendingNMIs: UInt8 = 0
    /// TF was set when the current single step began.
    var stepArmed = false
    /// DR6 bits of debug traps that wait for the end of the instruction.
    var pendingDebug: UInt64 = 0

    // What the interpreter keeps (see Interpreter/CodeCache.swift).

    /// The CodeCache, retained.
    // SAFETY: set by `makeCodeCache`, until `releaseCodeCache`.
    var codeCache: UnsafeRawPointer?
    /// Its jump cache.
    // SAFETY: as above.
    var jumpCache: UnsafeMutablePointer<JumpEntry>?
    /// Its room for a block of one operation.
    // SAFETY: as above.
    var singleBlock: UnsafeMutablePointer<BlockHeader>?
    /// The address of the block at RIP, which translated code has found not to be of this generation,
    /// or 0. For the next look for a block, which begins with it.
    var staleBlock: UInt = 0
    /// The latest generation of decoded code.
    var latestGeneration: UInt32 = 1
    /// What is known of decoded code: of supervisor mode's, and of user mode's.
    var codeViews = InlineArray<2, CodeView>(repeating: CodeView())
    /// No other CPU runs: LOCK has no effect. Blocks depend on it; see `invalidateAllCode`.
    var isOnlyCPU = true
    /// Runs in the interpreter before a block is translated; negative: none is.
    var translationThreshold: Int32 = -1
    /// A `Lockstep.Stage`: whether blocks run in both tiers.
    var lockstep: UInt8 = 0
    /// PAUSEs so far.
    var pauseCount: UInt8 = 0

    /// What the CPU has done so far.
    // SAFETY: part of the same block as this state.
    var counters: UnsafeMutablePointer<CPUCounters>
    /// The object that owns this state, for slow paths.
    // SAFETY: unowned; the TCGVCPU outlives its state.
    var owner: UnsafeRawPointer

    static let fxImageSize = 512

    init(
        tlb: UnsafeMutablePointer<TLBEntry>, counters: UnsafeMutablePointer<CPUCounters>,
        owner: UnsafeRawPointer
    ) {
        unsafe self.tlb = tlb
        unsafe tlbTables = tlb
        // The log lies behind the tables.
        unsafe tlbLog = UnsafeMutableRawPointer(tlb + TLB.modes * TLB.entries)
            .assumingMemoryBound(to: UInt16.self)
        unsafe self.counters = counters
        unsafe self.owner = owner
    }
}
