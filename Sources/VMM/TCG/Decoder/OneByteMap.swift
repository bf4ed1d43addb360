/// The one-byte opcode map (SDM volume 2, table A-2) without prefixes and escapes.
func oneByteEntry(_ opcode: UInt8, is64: Bool) -> TableEntry {
    if opcode < 0x40 { return arithmeticEntry(opcode) }
    switch opcode {
    case 0x40...0x47: return row(.inc, .Zv, flags: .invalidIn64)
    case 0x48...0x4F: return row(.dec, .Zv, flags: .invalidIn64)
    case 0x50...0x57: return row(.push, .Zv, flags: .default64)
    case 0x58...0x5F: return row(.pop, .Zv, flags: .default64)
    case 0x60: return row(.pusha, flags: .invalidIn64)
    case 0x61: return row(.popa, flags: .invalidIn64)
    case 0x62: return row(.bound, .Gv, .Ma, flags: .invalidIn64)
    case 0x63: return is64 ? row(.movsxd, .Gv, .Ez) : row(.arpl, .Ew, .Gw)
    case 0x68: return row(.push, .Iz, flags: .default64)
    case 0x69: return row(.imul, .Gv, .Ev, .Iz)
    case 0x6A: return row(.push, .sIb, flags: .default64)
    case 0x6B: return row(.imul, .Gv, .Ev, .sIb)
    case 0x6C: return row(.ins, flags: .byte)
    case 0x6D: return row(.ins, flags: .atMost32)
    case 0x6E: return row(.outs, flags: .byte)
    case 0x6F: return row(.outs, flags: .atMost32)

    case 0x70...0x7F: return row(.jcc, .Jb, flags: .force64)

    case 0x80: return group(.arithmeticByte)
    case 0x81: return group(.arithmetic)
    case 0x82: return is64 ? .undefined : group(.arithmeticByte)
    case 0x83: return group(.arithmeticSigned)
    case 0x84: return row(.test, .Eb, .Gb, flags: .byte)
    case 0x85: return row(.test, .Ev, .Gv)
    case 0x86: return row(.xchg, .Eb, .Gb, flags: .byteLock)
    case 0x87: return row(.xchg, .Ev, .Gv, flags: .lock)
    case 0x88: return row(.mov, .Eb, .Gb, flags: .byte)
    case 0x89: return row(.mov, .Ev, .Gv)
    case 0x8A: return row(.mov, .Gb, .Eb, flags: .byte)
    case 0x8B: return row(.mov, .Gv, .Ev)
    case 0x8C: return row(.mov, .RvMw, .Sw)
    case 0x8D: return row(.lea, .Gv, .M)
    case 0x8E: return row(.mov, .SwNotCS, .Ew)
    case 0x8F: return group(.popModRM)

    // 90 itself is NOP, PAUSE or an exchange with R8: see the decoder.
    case 0x90...0x97: return row(.xchg, .Zv, .rAX)
    case 0x98: return row(.cbw)
    case 0x99: return row(.cwd)
    case 0x9A: return row(.callFar, .Ap, flags: .invalidIn64)
    case 0x9B: return row(.fwait, .fpu)
    case 0x9C: return row(.pushf, flags: .default64)
    case 0x9D: return row(.popf, flags: .default64)
    case 0x9E: return row(.sahf)
    case 0x9F: return row(.lahf)

    case 0xA0: return row(.mov, .AL, .Ob, flags: .byte)
    case 0xA1: return row(.mov, .rAX, .Ov)
    case 0xA2: return row(.mov, .Ob, .AL, flags: .byte)
    case 0xA3: return row(.mov, .Ov, .rAX)
    case 0xA4: return row(.movs, flags: .byte)
    case 0xA5: return row(.movs)
    case 0xA6: return row(.cmps, flags: .byte)
    case 0xA7: return row(.cmps)
    case 0xA8: return row(.test, .AL, .sIb, flags: .byte)
    case 0xA9: return row(.test, .rAX, .Iz)
    case 0xAA: return row(.stos, flags: .byte)
    case 0xAB: return row(.stos)
    case 0xAC: return row(.lods, flags: .byte)
    case 0xAD: return row(.lods)
    case 0xAE: return row(.scas, flags: .byte)
    case 0xAF: return row(.scas)

    case 0xB0...0xB7: return row(.mov, .Zb, .sIb, flags: .byte)
    case 0xB8...0xBF: return row(.mov, .Zv, .Iv)

    case 0xC0: return group(.shiftByteImmediate)
    case 0xC1: return group(.shiftImmediate)
    case 0xC2: return row(.ret, .Iw, flags: .force64)
    case 0xC3: return row(.ret, flags: .force64)
    case 0xC4: return row(.les, .Gv, .Mp, flags: .invalidIn64)
    case 0xC5: return row(.lds, .Gv, .Mp, flags: .invalidIn64)
    case 0xC6: return group(.moveByteImmediate)
    case 0xC7: return group(.moveImmediate)
    case 0xC8: return row(.enter, .Iw, .Ib2, flags: .default64)
    case 0xC9: return row(.leave, flags: .default64)
    case 0xCA: return row(.retFar, .Iw)
    case 0xCB: return row(.retFar)
    case 0xCC: return row(.int3)
    case 0xCD: return row(.int, .Ib)
    case 0xCE: return row(.into, flags: .invalidIn64)
    case 0xCF: return row(.iret)

    case 0xD0: return group(.shiftByteOne)
    case 0xD1: return group(.shiftOne)
    case 0xD2: return group(.shiftByteCL)
    case 0xD3: return group(.shiftCL)
    case 0xD4: return row(.aam, .Ib, flags: [.byte, .invalidIn64])
    case 0xD5: return row(.aad, .Ib, flags: [.byte, .invalidIn64])
    case 0xD6: return row(.salc, flags: [.byte, .invalidIn64])
    case 0xD7: return row(.xlat, flags: .byte)
    case 0xD8...0xDF: return group(.x87)

    case 0xE0: return row(.loopne, .Jb, flags: .force64)
    case 0xE1: return row(.loope, .Jb, flags: .force64)
    case 0xE2: return row(.loop, .Jb, flags: .force64)
    case 0xE3: return row(.jrcxz, .Jb, flags: .force64)
    case 0xE4: return row(.inPort, .AL, .Ib, flags: .byte)
    case 0xE5: return row(.inPort, .eAX, .Ib, flags: .atMost32)
    case 0xE6: return row(.outPort, .Ib, .AL, flags: .byte)
    case 0xE7: return row(.outPort, .Ib, .eAX, flags: .atMost32)
    case 0xE8: return row(.call, .Jz, flags: .force64)
    case 0xE9: return row(.jmp, .Jz, flags: .force64)
    case 0xEA: return row(.jmpFar, .Ap, flags: .invalidIn64)
    case 0xEB: return row(.jmp, .Jb, flags: .force64)
    case 0xEC: return row(.inPort, .AL, .DX, flags: .byte)
    case 0xED: return row(.inPort, .eAX, .DX, flags: .atMost32)
    case 0xEE: return row(.outPort, .DX, .AL, flags: .byte)
    case 0xEF: return row(.outPort, .DX, .eAX, flags: .atMost32)

    case 0xF1: return row(.int1)
    case 0xF4: return row(.hlt)
    case 0xF5: return row(.cmc)
    case 0xF6: return group(.unaryByte)
    case 0xF7: return group(.unary)
    case 0xF8: return row(.clc)
    case 0xF9: return row(.stc)
    case 0xFA: return row(.cli)
    case 0xFB: return row(.sti)
    case 0xFC: return row(.cld)
    case 0xFD: return row(.std)
    case 0xFE: return group(.incrementByte)
    case 0xFF: return group(.increment)
    default: return .undefined
    }
}

/// Opcodes 00-3F: eight operations with six operand forms each, the segment pushes and pops and
/// the decimal adjustments.
private func arithmeticEntry(_ opcode: UInt8) -> TableEntry {
    if opcode & 7 < 6 {
        let mnemonic = arithmeticMnemonic(opcode >> 3)
        // CMP does not write, so it cannot be locked.
        let lock: TableEntry.Flags = opcode >= 0x38 ? [] : .lock
        switch opcode & 7 {
        case 0: return row(mnemonic, .Eb, .Gb, flags: lock.union(.byte))
        case 1: return row(mnemonic, .Ev, .Gv, flags: lock)
        case 2: return row(mnemonic, .Gb, .Eb, flags: .byte)
        case 3: return row(mnemonic, .Gv, .Ev)
        case 4: return row(mnemonic, .AL, .sIb, flags: .byte)
        default: return row(mnemonic, .rAX, .Iz)
        }
    }
    switch opcode {
    case 0x06: return row(.push, .segES, flags: .invalidIn64)
    case 0x07: return row(.pop, .segES, flags: .invalidIn64)
    case 0x0E: return row(.push, .segCS, flags: .invalidIn64)
    case 0x16: return row(.push, .segSS, flags: .invalidIn64)
    case 0x17: return row(.pop, .segSS, flags: .invalidIn64)
    case 0x1E: return row(.push, .segDS, flags: .invalidIn64)
    case 0x1F: return row(.pop, .segDS, flags: .invalidIn64)
    case 0x27: return row(.daa, flags: [.byte, .invalidIn64])
    case 0x2F: return row(.das, flags: [.byte, .invalidIn64])
    case 0x37: return row(.aaa, flags: [.byte, .invalidIn64])
    case 0x3F: return row(.aas, flags: [.byte, .invalidIn64])
    default: return .undefined
    }
}

/// The operation of opcodes 00-3F and of group 1.
func arithmeticMnemonic(_ number: UInt8) -> Mnemonic {
    switch number & 7 {
    case 0: return .add
    case 1: return .or
    case 2: return .adc
    case 3: return .sbb
    case 4: return .and
    case 5: return .sub
    case 6: return .xor
    default: return .cmp
    }
}
