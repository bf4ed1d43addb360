import TCGDecoder

@testable import TCG

/// A small, fast, seedable generator (SplitMix64).
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// Which instructions to draw.
enum InstructionClass: String, CaseIterable, Sendable {
    case integer
    case x87
    case vector
    /// Instructions with VEX on vector registers.
    case avx
    /// BMI1, BMI2, LZCNT and MOVBE.
    case bits

    /// How many are compared where nobody says how many.
    func quickCount(_ tier: TCGOptions.Tier) -> UInt64 {
        switch self {
        case _ where tier == .both: 10_000
        case .avx, .bits: 50_000
        default: tier == .interpreter ? 350_000 : 50_000
        }
    }

    /// Whether the host can run them.
    var isSupported: Bool {
        switch self {
        case .avx: CPUModel.missing(.level3).isEmpty
        case .bits: CPUModel.missing(.level3).isEmpty
        default: true
        }
    }
}

/// Draws random instructions that user-mode code may execute, as bytes.
struct InstructionGenerator {
    var random: SeededRandom
    private let excluded: Set<Mnemonic>
    private let mode: CodeMode
    private let decoder: Decoder

    /// - Parameter hasPrivileged: also instructions that end in a fault in user mode, whatever their
    ///   operands are.
    init(seed: UInt64, mode: CodeMode = .bits64, hasPrivileged: Bool = false) {
        random = SeededRandom(seed: seed)
        excluded = hasPrivileged ? Self.excluded : Self.excluded.union(Self.privileged)
        self.mode = mode
        decoder = Decoder(mode: mode)
    }

    /// One instruction of a class with its bytes.
    mutating func next(_ wanted: InstructionClass) -> (Instruction, [UInt8]) {
        while true {
            let bytes = candidate(wanted)
            guard case .instruction(let instruction) = decoder.decode(bytes.span),
                isAllowed(instruction, wanted)
            else { continue }
            return (instruction, Array(bytes.prefix(Int(instruction.length))))
        }
    }

    private mutating func candidate(_ wanted: InstructionClass) -> [UInt8] {
        var bytes: [UInt8] = []
        let choice = random.next()
        if wanted == .avx || wanted == .bits && choice & 0x7000_0000 != 0 {
            bytes = vexPrefix(isBits: wanted == .bits)
        } else if wanted == .vector {
            switch choice & 3 {
            case 0: bytes.append(0x66)
            case 1: bytes.append(0xF3)
            case 2: bytes.append(0xF2)
            default: break
            }
        } else {
            if choice & 7 == 0 { bytes.append(0x66) }
            if choice & 0x70 == 0 { bytes.append(choice & 0x80 == 0 ? 0xF3 : 0xF2) }
            if choice & 0x1F00 == 0 { bytes.append(0x67) }
            if choice & 0x1F_0000 == 0 { bytes.append(0xF0) }
        }
        let hasVEX = bytes.count > 1 && (bytes[0] == 0xC4 || bytes[0] == 0xC5)
        if choice & 0x300_0000 != 0, wanted != .x87, mode == .bits64, !hasVEX {
            bytes.append(0x40 | UInt8(truncatingIfNeeded: choice >> 32) & 15)
        }
        switch wanted {
        case .x87: bytes.append(0xD8 | UInt8(truncatingIfNeeded: choice >> 40) & 7)
        case .vector:
            bytes.append(0x0F)
            if choice >> 60 & 3 == 1 { bytes.append(0x38) }
            if choice >> 60 & 3 == 2 { bytes.append(0x3A) }
        case .avx: break
        case .bits where !hasVEX:
            bytes.append(0x0F)
            if choice >> 61 & 1 == 1 {
                bytes += [0x38, 0xF0 | UInt8(truncatingIfNeeded: choice >> 62) & 1]
            } else {
                bytes.append(0xBC | UInt8(truncatingIfNeeded: choice >> 62) & 1)
            }
        case .bits: break
        case .integer: if choice >> 61 & 1 == 1 { bytes.append(0x0F) }
        }
        for _ in 0..<2 {
            var word = random.next()
            for _ in 0..<8 {
                bytes.append(UInt8(truncatingIfNeeded: word))
                word >>= 8
            }
        }
        return Array(bytes.prefix(15))
    }

    /// Up to the opcode, most of which exist.
    private mutating func vexPrefix(isBits: Bool) -> [UInt8] {
        let word = random.next()
        var second = UInt8(truncatingIfNeeded: word >> 8)
        // Many instructions have nothing in VEX.vvvv.
        if word & 3 == 0 { second |= 0x78 }
        if word & 0xC == 0, !isBits { return [0xC5, second] }
        let map = isBits ? 2 + (word >> 16 & 7) / 7 : 1 + (word >> 16 & 7) % 3
        let first = UInt8(truncatingIfNeeded: word >> 24) & 0xE0 | UInt8(map)
        if isBits {
            return [0xC4, first, second & ~4, UInt8(truncatingIfNeeded: word >> 32) & 7 | 0xF0]
        }
        return [0xC4, first, second]
    }

    private func isAllowed(_ instruction: Instruction, _ wanted: InstructionClass) -> Bool {
        let isKnown = instruction.encoding == .legacy || instruction.encoding == .vex
        guard isKnown, Self.features.contains(instruction.feature),
            !excluded.contains(instruction.mnemonic), instruction.memory.segment < 4
        else { return false }
        // A branch into its own bytes may loop for ever, natively as well.
        for index in 0..<Int(instruction.operandCount)
        where instruction.operands[index].kind == .relative {
            if (-Int64(instruction.length)..<0).contains(instruction.immediate) { return false }
        }
        // MOVSXD to a 16-bit register reads two bytes on Intel, four on AMD.
        if instruction.mnemonic == .movsxd, instruction.operandSize == 2 { return false }
        // Near branches with an operand-size prefix: Intel ignores it in 64-bit mode, and so do
        // we; AMD truncates the target.
        if Self.branches.contains(instruction.mnemonic),
            instruction.prefixes.contains(.operandSize)
        {
            return false
        }
        // With REP or REPNE, Intel's LOOPE and LOOPNE wait for what the prefix says.
        if instruction.mnemonic == .loope || instruction.mnemonic == .loopne,
            instruction.prefixes.contains(.rep) || instruction.prefixes.contains(.repne)
        {
            return false
        }
        let isFloating = (0xD8...0xDF).contains(instruction.opcode) && instruction.map == 0
        let usesVectors =
            Self.vectorFeatures.contains(instruction.feature)
            && !Self.scalar.contains(instruction.mnemonic)
        let isVEX = instruction.encoding == .vex
        let isBits = Self.bits.contains(instruction.mnemonic)
        switch wanted {
        case .x87: return isFloating
        case .vector: return usesVectors && !isVEX
        case .avx: return isVEX && !isBits && CPUModel.max.supports(instruction)
        case .bits: return isBits
        case .integer:
            return !isFloating && !usesVectors && !isVEX && !isBits
                && !touchesForeignState(instruction)
        }
    }

    /// Segment, control and debug registers.
    private func touchesForeignState(_ instruction: Instruction) -> Bool {
        for index in 0..<Int(instruction.operandCount) {
            switch instruction.operands[index].kind {
            case .segment, .control, .debug, .farPointer: return true
            default: break
            }
        }
        return false
    }

    static let vectorFeatures: Set<Feature> = Set(
        [.mmx, .sse, .sse2, .sse3, .ssse3, .sse4_1, .sse4_2]
            + [.aes, .pclmulqdq].filter(CPUModel.max.supports))

    static let bits: Set<Mnemonic> = [
        .andn, .bextr, .blsi, .blsmsk, .blsr, .bzhi, .mulx, .pdep, .pext, .rorx, .sarx, .shlx,
        .shrx, .lzcnt, .tzcnt, .movbe,
    ]

    static let branches: Set<Mnemonic> = [
        .jmp, .jcc, .call, .ret, .loop, .loope, .loopne, .jrcxz,
    ]

    /// Scalar instructions that came with vector extensions.
    static let scalar: Set<Mnemonic> = [.crc32, .lfence, .mfence, .sfence, .movnti]

    static let features: Set<Feature> = vectorFeatures.union([
        .base, .cmov, .cmpxchg8b, .cmpxchg16b, .fpu, .fxsr, .popcnt, .fisttp, .movbe, .bmi1, .bmi2,
        .avx, .avx2, .fma, .f16c, .vaes, .vpclmulqdq,
    ])

    /// User-mode code may not execute them, and their privilege is looked at before all else.
    static let privileged: Set<Mnemonic> = [
        .hlt, .cli, .sti, .inPort, .outPort, .ins, .outs, .lldt, .ltr, .lgdt, .lidt, .lmsw, .clts,
        .invd, .wbinvd, .invlpg, .rdmsr, .wrmsr, .swapgs,
    ]

    /// Instructions whose result depends on the machine rather than on the registers, or that
    /// would change what the test stands on.
    static let excluded: Set<Mnemonic> = [
        .syscall, .sysenter, .sysexit, .sysret, .int, .int1, .int3, .into, .iret, .cpuid, .rdtsc,
        .rdtscp, .rdpmc, .popf, .pushf, .callFar, .jmpFar, .retFar, .lds, .les, .lfs, .lgs, .lss,
        .lar, .lsl, .verr, .verw, .sldt, .str, .sgdt, .sidt, .smsw, .invlpga, .monitor, .mwait,
        .vmcall, .vmmcall, .ud0, .ud1, .ud2, .rdrand, .rdseed, .xgetbv, .xsetbv, .rsm, .arpl,
        .enter, .fxsave, .fxrstor, .fnsave, .fnstenv, .clflush, .nop, .prefetch, .endbr64,
        .endbr32, .pause, .getsec, .invept, .invvpid, .fldenv, .frstor,
    ]
}
