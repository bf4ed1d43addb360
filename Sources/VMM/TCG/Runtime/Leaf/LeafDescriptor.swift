// Vector, MMX and x87 instructions are not written as semantics. For each opcode and form a small
// native function, a leaf stub, is generated that loads the operands, executes the real
// instruction on fixed registers, and stores the results. So `paddd xmm3, [rbx]` of the guest runs
//
//     movups xmm1, [rdi]      rdi: XMM3 in the CPU's FXSAVE image
//     movups xmm2, [rsi]      rsi: a copy of the guest's 16 bytes
//     paddd  xmm1, xmm2
//     movups [rdi], xmm1
//     ret
//
// whatever the registers were. Instructions that use the x87 stack or MMX registers keep their
// register numbers and run between an FXRSTOR and an FXSAVE of the image.

/// How a leaf instruction is executed.
enum LeafKind: UInt8 {
    // With a generated stub.
    /// XMM destination (read and written), XMM or memory source.
    case vector
    /// General destination, XMM or memory source: MOVMSKPS, CVTSD2SI...
    case vectorToGeneral
    /// XMM destination, general or memory source: CVTSI2SD, PINSRD, MOVD...
    case generalToVector
    /// General or memory destination, XMM source: PEXTRD, EXTRACTPS, MOVD...
    case extract
    /// PCMPESTRI and its three sisters.
    case string
    /// On the image: x87, MMX; memory is read or written (`memorySize` bytes).
    case image

    // Plain moves between memory and XMM registers; `offset` says which part of the register.
    /// Into part of the register; the rest stays.
    case loadPart
    /// Into the low part; the rest becomes zero.
    case loadZero
    case storePart
    case maskedStore

    // With VEX (see LeafAssembler+VEX.swift).
    /// Any operands, with a generated stub: the descriptor's `vex` has them.
    case vex
    /// ANDN and the like, on general registers; with a generated stub.
    case vexGeneral
    /// Elements of `generalSize` bytes, in a vector of `size` bytes, between memory and a register.
    case maskedMove
    /// `offset` elements of `size` bytes with indices of `generalSize` bytes.
    case gather
    /// VZEROUPPER, and VZEROALL where `size` is 32.
    case zeroUpper

    // State management, in Swift.
    case fxsave
    case fxrstor
    case ldmxcsr
    case stmxcsr
    case fninit
    case fnclex
    case fldcw
    case fnstcw
    case fnstsw
    case fwait
    case fldenv
    case fnstenv
    case frstor
    case fnsave
}

struct LeafFlags: OptionSet, BitwiseCopyable {
    let rawValue: UInt16

    /// A memory operand must be aligned to its size, 16 or 32 bytes.
    static let aligned = LeafFlags(rawValue: 1 << 0)
    /// Reads and updates MXCSR.
    static let mxcsr = LeafFlags(rawValue: 1 << 1)
    /// Sets the arithmetic flags.
    static let flags = LeafFlags(rawValue: 1 << 2)
    /// Memory is the destination.
    static let writesMemory = LeafFlags(rawValue: 1 << 3)
    /// A general register is the destination of an `image` leaf.
    static let writesGeneral = LeafFlags(rawValue: 1 << 4)
    /// The operand is a general register or memory, not an XMM register.
    static let generalSource = LeafFlags(rawValue: 1 << 5)
    static let x87 = LeafFlags(rawValue: 1 << 6)
    static let mmx = LeafFlags(rawValue: 1 << 7)
    static let sse = LeafFlags(rawValue: 1 << 8)
    /// An x87 instruction that updates FIP, FDP and FOP.
    static let setsPointers = LeafFlags(rawValue: 1 << 9)
    /// Has a memory operand.
    static let memory = LeafFlags(rawValue: 1 << 10)
    /// PCMPESTRI and PCMPISTRI: the result is in ECX, else in XMM0.
    static let indexResult = LeafFlags(rawValue: 1 << 11)
    /// Needs what AVX needs.
    static let avx = LeafFlags(rawValue: 1 << 12)
}

/// What a leaf instruction does, apart from its registers. Lives in raw memory and is never freed,
/// so that decoded operations can point to it.
struct LeafDescriptor: BitwiseCopyable {
    /// The stub's address, or 0.
    var stub: UInt = 0
    var kind: LeafKind
    /// Where in the XMM register a part lies.
    var offset: UInt8 = 0
    /// Bytes of the memory operand or part (at most 32; the larger ones are known by the kind).
    var size: UInt8 = 0
    var flags: LeafFlags
    /// For x87: the 11 bits of FOP.
    var opcode: UInt16 = 0
    /// Bytes of a general destination register that are written (4 or 8; 2 leaves the rest).
    var generalSize: UInt8 = 8
    /// The operand size: 2, 4 or 8, which selects formats of FXSAVE and FNSAVE.
    var operandSize: UInt8 = 4
    var vex = VEXOperands()

    /// Memory is written.
    var isStore: Bool {
        switch kind {
        case .storePart, .fxsave, .stmxcsr, .fnstcw, .fnstsw, .fnstenv, .fnsave: true
        default: flags.contains(.writesMemory)
        }
    }

    /// Bytes of the memory operand, whatever the kind.
    var memorySize: Int {
        let isWide = operandSize != 2
        return switch kind {
        case .fxsave, .fxrstor: 512
        case .fldenv, .fnstenv: isWide ? 28 : 14
        case .frstor, .fnsave: isWide ? 108 : 94
        case .ldmxcsr, .stmxcsr: 4
        case .fldcw, .fnstcw, .fnstsw: 2
        default: max(1, Int(size))
        }
    }
}

/// A leaf instruction as an operation stores it.
// SAFETY: descriptors are never freed.
@safe struct LeafLowering {
    let descriptor: UnsafePointer<LeafDescriptor>
    /// With VEX: what ModRM.reg names.
    let destination: UInt8
    /// With VEX: what ModRM.rm names, or a gather's index.
    let source: UInt8
    /// VEX.vvvv, and above it the fourth register.
    var others: UInt8 = 0
}

/// The operands of an instruction with VEX, by where they are encoded.
struct VEXOperands: BitwiseCopyable {
    enum Result: UInt8 {
        /// Flags, or what the kind says.
        case none
        case reg, rm, vvvv
        /// A general register in ModRM.reg or ModRM.rm.
        case generalReg, generalRM
        /// For PCMPxSTRM and PCMPxSTRI: XMM0, ECX.
        case first, count
        case memory
    }

    struct Inputs: OptionSet, BitwiseCopyable {
        let rawValue: UInt8

        static let reg = Inputs(rawValue: 1)
        static let rm = Inputs(rawValue: 2)
        static let vvvv = Inputs(rawValue: 4)
        static let fourth = Inputs(rawValue: 8)
        static let memory = Inputs(rawValue: 16)
        /// A general register in ModRM.rm.
        static let general = Inputs(rawValue: 32)
        /// EAX and EDX, as lengths.
        static let lengths = Inputs(rawValue: 64)
    }

    var result = Result.none
    var inputs: Inputs = []
}
