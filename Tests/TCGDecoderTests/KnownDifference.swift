import CZydis
import TCGDecoder

/// Where Apus and Zydis differ on purpose.
enum KnownDifference {
    /// Instruction sets that Apus leaves undefined, and those of which it only knows the length.
    static func onlyZydisAccepts(_ instruction: ZydisDecodedInstruction) -> Bool {
        switch unsafe instruction.meta.isa_ext {
        case ZYDIS_ISA_EXT_XOP, ZYDIS_ISA_EXT_TBM, ZYDIS_ISA_EXT_AMD3DNOW,
            // Processors that no longer exist.
            ZYDIS_ISA_EXT_FMA4, ZYDIS_ISA_EXT_KNC, ZYDIS_ISA_EXT_KNCE, ZYDIS_ISA_EXT_KNCV,
            ZYDIS_ISA_EXT_PADLOCK:
            return true
        default: break
        }
        // What only Xeon Phi had of AVX-512.
        switch unsafe instruction.meta.isa_set {
        case ZYDIS_ISA_SET_AVX512ER_512, ZYDIS_ISA_SET_AVX512ER_SCALAR,
            ZYDIS_ISA_SET_AVX512PF_512, ZYDIS_ISA_SET_AVX512_4FMAPS_512,
            ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR, ZYDIS_ISA_SET_AVX512_4VNNIW_512:
            return true
        default: return false
        }
    }

    /// XOP and 3DNow! are only measured: Apus does not check whether the opcode exists. And
    /// outside 64-bit mode W is ignored where a scalar is converted from or to an integer (SDM,
    /// VCVTSH2SI), which Zydis 4.0 rejects for FP16 and for VCVT(U)SI2SD with a rounding mode.
    static func onlyApusAccepts(_ instruction: Instruction) -> Bool {
        if instruction.encoding == .other { return true }
        guard instruction.encoding == .evex, instruction.vectorW,
            instruction.mode != .bits64
        else { return false }
        if instruction.map == 1 {
            return [0x2A, 0x7B].contains(instruction.opcode)
                && instruction.mandatoryPrefix == 0xF2
        }
        return instruction.map == 5
            && [0x2A, 0x2C, 0x2D, 0x78, 0x79, 0x7B].contains(instruction.opcode)
    }

    /// Before an indirect near branch Zydis takes 3E for NOTRACK and no longer for DS. Without
    /// CET's indirect branch tracking, which Apus does not offer, it remains a segment override.
    static func isNoTrack(_ instruction: Instruction) -> Bool {
        guard instruction.map == 0, instruction.opcode == 0xFF else { return false }
        return instruction.mode != .bits64 && instruction.prefixes.contains(.segment)
    }

    /// Memory operands without a size: Zydis gives the address size or the size of a structure.
    static func hasNoSize(_ instruction: Instruction) -> Bool {
        instruction.mnemonic == .lea
    }

    /// Without ModRM.mod, SIB base 5 means no base whatever REX.B says (SDM volume 2, table 2-5).
    /// Zydis 4.0 takes R13D for it if the address size is 32 bits.
    static func hasWrongBase(
        _ ours: MemoryOperand, _ theirs: MemoryOperand, addressSize: UInt8
    ) -> Bool {
        addressSize == 4 && ours.base == MemoryOperand.noRegister && theirs.base == 13
            && theirs.displacement == 0 && ours.index == theirs.index
    }

    static func hasSecondImmediate(_ instruction: Instruction) -> Bool {
        switch instruction.mnemonic {
        case .enter, .extrq, .insertq: true
        default: false
        }
    }

    /// Where one prefix selects the instruction there is no operand size to speak of; Zydis has
    /// none for a few instructions that work on AL only.
    static func comparesOperandSize(_ instruction: Instruction) -> Bool {
        if instruction.mandatoryPrefix != 0 { return false }
        switch instruction.mnemonic {
        case .xlat, .aaa, .aas, .daa, .das, .aam, .aad, .salc: return false
        // The size does not apply, or is fixed.
        case .invlpg, .cmpxchg8b, .syscall, .sysret, .nop: return false
        // At most 32 bits whatever REX.W says.
        case .ins, .outs: return false
        default: break
        }
        switch instruction.feature {
        case .vmx, .tdx: return false
        default: return instruction.map < 2
        }
    }

    /// With MPX off, Zydis shows one operand of 0F1A and 0F1B, and 0F1E always with 32 bits.
    static func comparesOperands(_ instruction: Instruction) -> Bool {
        if instruction.mnemonic == .nop { return ![0x1A, 0x1B, 0x1E].contains(instruction.opcode) }
        // Zydis shows ST0 for this one comparison only.
        return instruction.mnemonic != .fucomp
    }

    /// MOVSXD with prefix 66 reads two bytes; Zydis says four if they are in memory.
    static func hasOtherMemorySize(_ instruction: Instruction) -> Bool {
        instruction.mnemonic == .movsxd && instruction.operandSize == 2
    }

    /// Zydis gives control and debug registers 64 bits in every mode.
    static func hasFixedSize(_ kind: OperandKind) -> Bool { kind == .control || kind == .debug }
}
