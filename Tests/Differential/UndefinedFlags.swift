import TCGDecoder

/// The arithmetic flags that an instruction leaves undefined (SDM volume 2): they are not compared.
func undefinedFlags(after instruction: Instruction) -> UInt64 {
    let cf: UInt64 = 1, pf: UInt64 = 4, af: UInt64 = 0x10, zf: UInt64 = 0x40, sf: UInt64 = 0x80
    let of: UInt64 = 0x800
    switch instruction.mnemonic {
    case .and, .or, .xor, .test: return af
    case .mul, .imul: return sf | zf | af | pf
    case .div, .idiv: return cf | of | sf | zf | af | pf
    case .shl, .shr, .sar: return af | of | cf
    case .rol, .ror, .rcl, .rcr: return of
    case .shld, .shrd: return cf | of | sf | zf | af | pf
    case .bt, .bts, .btr, .btc: return of | sf | af | pf | zf
    case .tzcnt, .lzcnt: return of | sf | af | pf
    case .bsf, .bsr: return cf | of | sf | af | pf
    case .popcnt, .crc32: return 0
    case .aaa, .aas: return of | sf | zf | pf
    case .aam, .aad: return of | af | cf
    case .daa, .das: return of
    default: return 0
    }
}

/// Instructions whose destination is undefined for some operands.
func hasUndefinedResult(_ instruction: Instruction) -> Bool {
    switch instruction.mnemonic {
    // A count above the operand's size.
    case .shld, .shrd: instruction.operandSize == 2
    default: false
    }
}
