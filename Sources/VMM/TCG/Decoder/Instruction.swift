/// The processor's code size, from CS.L and CS.D (SDM volume 3, section 5.2.1).
public enum CodeMode: UInt8, BitwiseCopyable, Sendable {
    case bits16 = 2
    case bits32 = 4
    case bits64 = 8
}

/// Which of the encodings an instruction uses.
public enum Encoding: UInt8, BitwiseCopyable, Sendable {
    case legacy
    case vex
    case evex
    /// AMD's XOP (8F escape) and 3DNow! (0F 0F): lengths are known, nothing is executed.
    case other
}

/// The prefixes that were present. `rex` covers any REX byte; its bits are already folded into
/// the operands.
public struct Prefixes: OptionSet, BitwiseCopyable, Sendable {
    public let rawValue: UInt16

    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let lock = Prefixes(rawValue: 1 << 0)
    /// F3, as REP/REPE or as part of the opcode.
    public static let rep = Prefixes(rawValue: 1 << 1)
    /// F2, as REPNE or as part of the opcode.
    public static let repne = Prefixes(rawValue: 1 << 2)
    public static let operandSize = Prefixes(rawValue: 1 << 3)
    public static let addressSize = Prefixes(rawValue: 1 << 4)
    public static let rex = Prefixes(rawValue: 1 << 5)
    public static let rexW = Prefixes(rawValue: 1 << 6)
    /// A segment override that has an effect (in 64-bit mode only FS and GS have one).
    public static let segment = Prefixes(rawValue: 1 << 7)
}

/// What an operand names. Register numbers are in `Operand.register`.
public enum OperandKind: UInt8, BitwiseCopyable, Sendable {
    case none
    /// RAX..R15 in the operand's size; one-byte registers 4-7 are SPL..DIL.
    case general
    /// AH, CH, DH, BH as registers 0-3.
    case generalHigh
    /// ES, CS, SS, DS, FS, GS as 0-5.
    case segment
    case control
    case debug
    /// ST(i).
    case x87
    case mmx
    /// XMM, YMM or ZMM by the operand's size (16, 32, 64).
    case vector
    /// K0-K7.
    case mask
    /// AMX's TMM0-TMM7; the size is 0.
    case tile
    case memory
    case immediate
    /// A branch target relative to the next instruction; the displacement is `immediate`.
    case relative
    /// ptr16:16 or ptr16:32: the offset is `immediate`, the selector `immediate2`.
    case farPointer
}

/// Which part of an instruction names an operand.
public enum OperandPlace: UInt8, BitwiseCopyable, Sendable {
    /// The opcode, an immediate, or nothing.
    case other
    /// ModRM.reg.
    case reg
    /// ModRM.rm, memory included.
    case rm
    /// VEX.vvvv.
    case vvvv
    /// The upper half of an immediate byte.
    case immediate
}

/// One operand in Intel's order (destination first). Operands that the syntax does not show
/// (flags, the stack, RSI and RDI of a string instruction) are not listed; those that it shows
/// though the opcode fixes them (the CL of `shl rax, cl`, the DX of `out dx, al`) are.
public struct Operand: BitwiseCopyable, Equatable, Sendable {
    public var kind: OperandKind
    /// Where the encoding names it; no part of what it is.
    public var place: OperandPlace = .other
    /// Bytes that the instruction reads or writes; 0 where there is no fixed size (LEA's memory,
    /// FXSAVE has 512 which does not fit: see the mnemonic).
    public var size: UInt8
    public var register: UInt8

    public init(kind: OperandKind, size: UInt8 = 0, register: UInt8 = 0) {
        self.kind = kind
        self.size = size
        self.register = register
    }

    public static func == (a: Operand, b: Operand) -> Bool {
        a.kind == b.kind && a.size == b.size && a.register == b.register
    }
}

/// `[segment: base + index * scale + displacement]`.
public struct MemoryOperand: BitwiseCopyable, Equatable, Sendable {
    /// `base` or `index` when there is none. A vector index is always there and may be 16.
    public static let noRegister: UInt8 = 16
    /// `base` of a RIP-relative operand: the displacement counts from the next instruction.
    public static let instructionPointer: UInt8 = 17

    /// The segment in force, overrides and defaults (SS for RSP and RBP bases) applied: 0-5.
    public var segment: UInt8 = 3
    public var base: UInt8 = noRegister
    public var index: UInt8 = noRegister
    /// `index` is an XMM, YMM or ZMM register 0-31 (gathers and scatters).
    public var hasVectorIndex = false
    /// 1, 2, 4 or 8.
    public var scale: UInt8 = 1
    /// Sign-extended; EVEX's compressed displacements are already multiplied. MOV's 64-bit
    /// moffs uses all bits.
    public var displacement: Int64 = 0

    public init() {}
}

/// One decoded instruction: everything its bytes say, in plain values.
public struct Instruction: BitwiseCopyable, Sendable {
    public var mnemonic: Mnemonic = .invalid
    /// What CPUID must offer for the instruction to exist.
    public var feature: Feature = .base
    public var encoding: Encoding = .legacy
    public var mode: CodeMode = .bits64
    /// 1-15.
    public var length: UInt8 = 0
    public var prefixes: Prefixes = []
    /// Effective operand size in bytes: 2, 4 or 8 (1 for byte forms of the opcode). Where 66
    /// selects the instruction (`mandatoryPrefix`) it does not count as operand size.
    public var operandSize: UInt8 = 4
    /// Effective address size in bytes: 2, 4 or 8.
    public var addressSize: UInt8 = 8

    /// 0 one-byte, 1 0F, 2 0F38, 3 0F3A; VEX and EVEX maps by their number.
    public var map: UInt8 = 0
    public var opcode: UInt8 = 0
    /// 0, 0x66, 0xF3 or 0xF2 where the prefix selects the instruction (SSE and the like).
    public var mandatoryPrefix: UInt8 = 0
    public var hasModRM = false
    public var modRM: UInt8 = 0

    public var operandCount: UInt8 = 0
    public var operands = InlineArray<4, Operand>(repeating: Operand(kind: .none))
    public var memory = MemoryOperand()
    /// Sign-extended as the instruction uses it; the relative displacement of a branch.
    public var immediate: Int64 = 0
    /// ENTER's nesting level, EXTRQ's and INSERTQ's second byte, a far pointer's selector.
    public var immediate2: UInt16 = 0

    // VEX and EVEX only.
    public var vectorW = false
    /// 16, 32 or 64 bytes; 0 for legacy encodings.
    public var vectorLength: UInt8 = 0
    /// K1-K7 of EVEX, 0 for none.
    public var maskRegister: UInt8 = 0
    public var isZeroing = false
    /// EVEX.b: broadcast, rounding or suppress-all-exceptions.
    public var hasEVEXb = false

    public init() {}

    /// The condition of Jcc, SETcc and CMOVcc: the opcode's low four bits
    /// (SDM volume 2, appendix B.1.4.7).
    public var condition: UInt8 { opcode & 15 }
    /// ModRM.reg without REX.
    public var modRMReg: UInt8 { (modRM >> 3) & 7 }
    /// ModRM.mod is 3.
    public var isRegisterForm: Bool { modRM >= 0xC0 }

    /// `mandatoryPrefix` as VEX.pp has it (SDM volume 2, section 2.3.6.1).
    public var vexPrefix: UInt8 {
        switch mandatoryPrefix {
        case 0x66: 1
        case 0xF3: 2
        case 0xF2: 3
        default: 0
        }
    }
}

/// What the decoder made of the bytes.
public enum DecodeResult: BitwiseCopyable, Sendable {
    case instruction(Instruction)
    /// The bytes end before the instruction does, and there were fewer than 15.
    case truncated
    /// No such instruction: #UD.
    case undefined
    /// More than 15 bytes: #GP(0).
    case tooLong
}
