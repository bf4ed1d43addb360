import TCGDecoder

@testable import TCG

/// What the architecture leaves to the processor where an instruction faults. Intel's and AMD's
/// processors differ in all of it; Apus's CPU does what AMD's do, which are compared in full.
struct FaultLatitude: Equatable {
    /// The bits of the address of a page fault that are known: the page of VMASKMOV and VPMASKMOV, and
    /// none of ENTER, which may try its last byte first.
    private(set) var knownAddress: UInt64 = .max
    /// REP CMPS and REP SCAS: Intel's have the flags of before the instruction (SDM volume 2, REP).
    private(set) var flags = false
    /// A gather's mask and what it has loaded.
    private(set) var vectors = false
    /// MXCSR's flags, where VCVTPS2PH cannot store.
    private(set) var mxcsr = false
    /// x87's top of stack and tags, which a faulting MMX instruction has set or not.
    private(set) var tags = false
    /// What a store of ten bytes has written of them, or a CALL or ENTER below the stack pointer.
    private(set) var memory = false
    /// Another exception may come instead.
    private(set) var other = false

    /// A stack fault, a general protection and a page fault: there is latitude in no others.
    static let faults: ClosedRange<UInt64> = 12...14

    /// Nothing.
    init() {}

    /// Whether this is one of Intel's processors: CPUID says "GenuineIntel".
    static let hostIsIntel = HostFeatures.cpuid(0, 0).ebx == 0x756E_6547

    /// For an instruction that ended in an exception, with x87's control word of then.
    init(
        _ instruction: Instruction, vector: UInt64, controlWord: UInt16,
        isIntel: Bool = hostIsIntel
    ) {
        guard Self.faults.contains(vector) else { return }
        switch instruction.mnemonic {
        // Reached by a wild jump only: the host's kernel executes them (UMIP).
        case .sgdt, .sidt, .sldt, .smsw, .str: other = true
        case _ where !isIntel: break
        case .call:
            // The target is not canonical, or beyond the segment's limit. Intel's push first, and the
            // stack may fault.
            memory = vector == 13
            other = vector == 13
        case .cmps, .scas: flags = true
        case .enter:
            knownAddress = 0
            memory = true
        case .fst, .fstp, .fist, .fistp, .fisttp, .fbstp:
            // They write eight bytes of ten, and then two. All else is written whole or not.
            memory = instruction.operands[0].size == 10
            // Intel's do not look at the memory if an exception that is not masked forbids the store.
            other = controlWord & 0x3F != 0x3F
        case .vex:
            vectors = instruction.isVEX(2, 0x90...0x93)
            let isMaskedMove =
                instruction.isVEX(2, 0x2C...0x2F) || instruction.isVEX(2, 0x8C...0x8C)
                || instruction.isVEX(2, 0x8E...0x8E)
            if isMaskedMove { knownAddress = ~0xFFF }
            // An exception of the conversion comes before the fault of its store, or not at all.
            mxcsr = instruction.isVEX(3, 0x1D...0x1D)
            other = mxcsr
        default: tags = instruction.usesMMX
        }
    }
}

extension Instruction {
    fileprivate var usesMMX: Bool {
        (0..<Int(operandCount)).contains { operands[$0].kind == .mmx }
    }
}
