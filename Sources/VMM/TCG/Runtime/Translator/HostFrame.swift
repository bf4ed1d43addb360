// While translated code runs, RSP points at a frame in front of the CPU's state, so that both are
// reached with a constant distance and no register is spent on them. Below is a stack of its own,
// for calls of the stubs and for signals.
//
//     rsp + 0        HostFrame
//     rsp + 128      the FXSAVE image
//     rsp + 640      VCPUState

/// Offsets from RSP while translated code runs.
enum HostFrame {
    static let size = 128
    static let stackSize = 64 << 10

    /// The arithmetic flags in LAHF's form: AH as bits 8-15, OF as bit 0.
    static let flags: Int32 = 0
    /// RAX, while flags are moved.
    static let scratch: Int32 = 8
    /// RSP of the thread that runs the CPU.
    static let hostStack: Int32 = 16
    /// Where a helper returns to.
    static let resume: Int32 = 24
    /// The host address that a string instruction copies from.
    static let stringSource: Int32 = 32
    /// The budget when instructions were last counted as retired.
    static let mark: Int32 = 40
    /// The code that an indirect call goes to, or the guest address that a branch leaves for.
    static let target: Int32 = 48
    /// `Vectors` (4 bytes).
    static let vectors: Int32 = 56
    /// Of them, the byte with `Vectors.avx`, which is set and cleared alone.
    static let upperVectors: Int32 = 57

    /// Which of the guest's registers are in the host's besides the general ones; 0 is none.
    enum Vectors {
        /// XMM registers and MXCSR.
        static let sse: UInt16 = 1
        /// The x87 or MMX registers, which come with those only.
        static let x87: UInt16 = 2
        /// The upper halves of YMM registers, likewise.
        static let avx: UInt16 = 0x100
    }

    /// What the host's own code wants in MXCSR.
    static let hostMXCSR: Int32 = 60

    /// Instructions that may still run before `execute` returns to its caller (8 bytes).
    static let budget: Int32 = 64
    /// What translated code compares with its block's generation before it runs: the CPU's
    /// generation, or 0 while there is an exit request. Other threads store 0 (atomically, 4
    /// bytes).
    static let check: Int32 = 72
    /// Host addresses that several accesses of a block share (8 bytes each).
    static let places: Int32 = 80
    static let placeCount = 6

    /// A mode's table of the soft TLB.
    static func tlb(mode: UInt8) -> HostMemory {
        let table = VCPUBlock.tlbDistance + Int(mode) * TLB.entries * TLBEntry.stride
        return HostMemory(HostRegister.rsp, Int32(table))
    }

    /// A field of the entry there whose offset is in a register.
    static func tlb(mode: UInt8, entry: UInt8, _ field: Int32) -> HostMemory {
        HostMemory(
            HostRegister.rsp, index: entry, scale: 0, tlb(mode: mode).displacement + field)
    }

    /// A field of the target table's entry whose offset is in a register.
    static func target(mode: UInt8, entry: UInt8, _ field: Int32) -> HostMemory {
        let table = VCPUBlock.targetDistance + TargetTable.offset(mode: mode)
        return HostMemory(HostRegister.rsp, index: entry, scale: 0, Int32(table) + field)
    }

    /// A place in the FXSAVE image.
    static func image(_ offset: Int) -> HostMemory {
        HostMemory(HostRegister.rsp, Int32(size + offset))
    }

    static let mxcsr = image(FXImage.mxcsr)

    static func vector(_ number: UInt8) -> HostMemory { image(FXImage.xmm0 + Int(number) * 16) }

    static let state: Int32 = Int32(size + VCPUState.fxImageSize)

    static func register(_ number: UInt8) -> HostMemory {
        HostMemory(HostRegister.rsp, state + Int32(number) * 8)
    }

    static func slot(_ offset: Int32) -> HostMemory { HostMemory(HostRegister.rsp, offset) }
}

/// Where fields of `VCPUState` are, seen from RSP. Looked up once: a key path is a good part of
/// Swift's runtime.
enum HostState {
    private static func field(_ offset: Int?) -> HostMemory {
        HostMemory(HostRegister.rsp, HostFrame.state + Int32(offset ?? 0))
    }

    static let tlb = unsafe field(MemoryLayout.offset(of: \VCPUState.tlb))
    static let tlbMode = field(MemoryLayout.offset(of: \VCPUState.tlbMode))
    static let modeKey = field(MemoryLayout.offset(of: \VCPUState.modeKey))
    static let systemFlags = field(MemoryLayout.offset(of: \VCPUState.systemFlags))
    /// From the state's beginning.
    static let upperHalvesOffset = MemoryLayout.offset(of: \VCPUState.upperHalves) ?? 0
    static let hasUpperHalves = field(MemoryLayout.offset(of: \VCPUState.hasUpperHalves))
    static let interruptPending = field(MemoryLayout.offset(of: \VCPUState.interruptPending))
    static let cpl = field(MemoryLayout.offset(of: \VCPUState.cpl))
    private static let selectors = field(
        (MemoryLayout.offset(of: \VCPUState.segments) ?? 0)
            + (MemoryLayout.offset(of: \Segment.selector) ?? 0))
    private static let bases = field(MemoryLayout.offset(of: \VCPUState.addressBase))

    static func addressBase(_ segment: UInt8) -> HostMemory {
        HostMemory(HostRegister.rsp, bases.displacement + Int32(segment & 7) * 8)
    }

    static let gsBase = field(
        (MemoryLayout.offset(of: \VCPUState.segments) ?? 0)
            + Int(SegmentRegister.gs) * MemoryLayout<Segment>.stride
            + (MemoryLayout.offset(of: \Segment.base) ?? 0))
    static let kernelGSBase = field(MemoryLayout.offset(of: \VCPUState.kernelGSBase))

    /// Of those whose value is at one place.
    static func controlRegister(_ number: UInt8) -> HostMemory? {
        switch number {
        case 0: field(MemoryLayout.offset(of: \VCPUState.cr0))
        case 2: field(MemoryLayout.offset(of: \VCPUState.cr2))
        case 3: field(MemoryLayout.offset(of: \VCPUState.cr3))
        case 4: field(MemoryLayout.offset(of: \VCPUState.cr4))
        default: nil
        }
    }

    /// Of YMM register `number`.
    static func upperHalf(_ number: UInt8) -> HostMemory {
        HostMemory(
            HostRegister.rsp, HostFrame.state + Int32(upperHalvesOffset) + Int32(number) * 16)
    }

    static func selector(_ segment: UInt8) -> HostMemory {
        let distance = Int32(segment & 7) * Int32(MemoryLayout<Segment>.stride)
        return HostMemory(HostRegister.rsp, selectors.displacement + distance)
    }

}

/// Flags in the form of `HostFrame.flags`.
enum HostFlags {
    @inline(__always)
    static func packed(_ flags: UInt64) -> UInt32 {
        UInt32(truncatingIfNeeded: (flags & 0xD5 | 2) << 8 | flags >> 11 & 1)
    }

    @inline(__always)
    static func unpacked(_ word: UInt32) -> UInt64 {
        UInt64(word >> 8 & 0xD5) | UInt64(word & 1) << 11
    }
}
