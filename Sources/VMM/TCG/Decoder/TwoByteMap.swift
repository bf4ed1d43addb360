/// What chooses between the instructions of one opcode.
struct EntryContext: BitwiseCopyable {
    /// The mandatory prefix: 0 none, 1 66, 2 F3, 3 F2, as in VEX and EVEX.
    var prefix: UInt8
    /// REX.W, VEX.W or EVEX.W.
    var w: Bool
    /// 64-bit mode.
    var is64: Bool
}

/// The two-byte opcode map (0F; SDM volume 2, table A-3).
func twoByteEntry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch opcode {
    // Opcodes for which the prefixes 66, F2 and F3 do not select another instruction.
    case 0x00: return group(.group6)
    case 0x01: return group(.group7)
    case 0x02: return row(.lar, .Gv, .RvMw)
    case 0x03: return row(.lsl, .Gv, .RzMw)
    case 0x05: return row(.syscall, flags: .force64)
    case 0x06: return row(.clts)
    case 0x07: return row(.sysret)
    case 0x08: return row(.invd)
    case 0x09: return row(.wbinvd)
    case 0x0B: return row(.ud2)
    case 0x0D: return group(.prefetchWrite)
    case 0x0E: return row(.threeDNow, .threeDNow)
    case 0x18...0x1F: return group(.hint)
    case 0x20: return row(.mov, .Rm, .Cd, flags: .natural)
    case 0x21: return row(.mov, .Rm, .Dd, flags: .natural)
    case 0x22: return row(.mov, .Cd, .Rm, flags: .natural)
    case 0x23: return row(.mov, .Dd, .Rm, flags: .natural)
    case 0x30: return row(.wrmsr)
    case 0x31: return row(.rdtsc)
    case 0x32: return row(.rdmsr)
    case 0x33: return row(.rdpmc)
    case 0x34: return row(.sysenter)
    case 0x35: return row(.sysexit)
    case 0x37: return context.prefix == 0 ? row(.getsec, .smx) : .undefined
    case 0x40...0x4F: return row(.cmovcc, .cmov, .Gv, .Ev)
    case 0x71: return group(.group12)
    case 0x72: return group(.group13)
    case 0x73: return group(.group14)
    case 0x77: return context.prefix == 0 ? row(.emms, .mmx) : .undefined
    case 0x80...0x8F: return row(.jcc, .Jz, flags: .force64)
    case 0x90...0x9F: return row(.setcc, .Eb, flags: .byte)
    case 0xA0: return row(.push, .segFS, flags: .default64)
    case 0xA1: return row(.pop, .segFS, flags: .default64)
    case 0xA2: return row(.cpuid)
    case 0xA3: return row(.bt, .Ev, .Gv)
    case 0xA4: return row(.shld, .Ev, .Gv, .Ib)
    case 0xA5: return row(.shld, .Ev, .Gv, .CL)
    case 0xA8: return row(.push, .segGS, flags: .default64)
    case 0xA9: return row(.pop, .segGS, flags: .default64)
    case 0xAA: return row(.rsm)
    case 0xAB: return row(.bts, .Ev, .Gv, flags: .lock)
    case 0xAC: return row(.shrd, .Ev, .Gv, .Ib)
    case 0xAD: return row(.shrd, .Ev, .Gv, .CL)
    case 0xAE: return group(.group15)
    case 0xAF: return row(.imul, .Gv, .Ev)
    case 0xB0: return row(.cmpxchg, .Eb, .Gb, flags: .byteLock)
    case 0xB1: return row(.cmpxchg, .Ev, .Gv, flags: .lock)
    case 0xB2: return row(.lss, .Gv, .Mp)
    case 0xB3: return row(.btr, .Ev, .Gv, flags: .lock)
    case 0xB4: return row(.lfs, .Gv, .Mp)
    case 0xB5: return row(.lgs, .Gv, .Mp)
    case 0xB6: return row(.movzx, .Gv, .Eb)
    case 0xB7: return row(.movzx, .Gv, .Ew)
    case 0xB8: return context.prefix == 2 ? row(.popcnt, .popcnt, .Gv, .Ev) : .undefined
    case 0xB9: return row(.ud1, .Gd, .Ed)
    case 0xBA: return group(.group8)
    case 0xBB: return row(.btc, .Ev, .Gv, flags: .lock)
    case 0xBC:
        return context.prefix == 2 ? row(.tzcnt, .Gv, .Ev) : row(.bsf, .Gv, .Ev)
    case 0xBD:
        return context.prefix == 2 ? row(.lzcnt, .Gv, .Ev) : row(.bsr, .Gv, .Ev)
    case 0xBE: return row(.movsx, .Gv, .Eb)
    case 0xBF: return row(.movsx, .Gv, .Ew)
    case 0xC0: return row(.xadd, .Eb, .Gb, flags: .byteLock)
    case 0xC1: return row(.xadd, .Ev, .Gv, flags: .lock)
    case 0xC7: return group(.group9)
    case 0xC8...0xCF: return row(.bswap, .Zv)
    case 0xFF: return row(.ud0, .Gd, .Ed)
    default:
        return prefixedTwoByteEntry(UInt16(context.prefix) << 8 | UInt16(opcode), context)
            .prefixed
    }
}

/// Opcodes 0F xx selected by a mandatory prefix: `key` is the prefix's number and the opcode.
private func prefixedTwoByteEntry(_ key: UInt16, _ context: EntryContext) -> TableEntry {
    switch key {
    // Moves.
    case 0x010: return row(.movups, .sse, .Vdq, .Wdq)
    case 0x110: return row(.movupd, .sse2, .Vdq, .Wdq)
    case 0x210: return row(.movss, .sse, .Vdq, .Wd)
    case 0x310: return row(.movsd, .sse2, .Vdq, .Wq)
    case 0x011: return row(.movups, .sse, .Wdq, .Vdq)
    case 0x111: return row(.movupd, .sse2, .Wdq, .Vdq)
    case 0x211: return row(.movss, .sse, .Wd, .Vdq)
    case 0x311: return row(.movsd, .sse2, .Wq, .Vdq)
    case 0x012: return group(.moveLow)
    case 0x112: return row(.movlpd, .sse2, .Vdq, .Mq)
    case 0x212: return row(.movsldup, .sse3, .Vdq, .Wdq)
    case 0x312: return row(.movddup, .sse3, .Vdq, .Wq)
    case 0x013: return row(.movlps, .sse, .Mq, .Vdq)
    case 0x113: return row(.movlpd, .sse2, .Mq, .Vdq)
    case 0x014: return row(.unpcklps, .sse, .Vdq, .Wdq)
    case 0x114: return row(.unpcklpd, .sse2, .Vdq, .Wdq)
    case 0x015: return row(.unpckhps, .sse, .Vdq, .Wdq)
    case 0x115: return row(.unpckhpd, .sse2, .Vdq, .Wdq)
    case 0x016: return group(.moveHigh)
    case 0x116: return row(.movhpd, .sse2, .Vdq, .Mq)
    case 0x216: return row(.movshdup, .sse3, .Vdq, .Wdq)
    case 0x017: return row(.movhps, .sse, .Mq, .Vdq)
    case 0x117: return row(.movhpd, .sse2, .Mq, .Vdq)
    case 0x028: return row(.movaps, .sse, .Vdq, .Wdq)
    case 0x128: return row(.movapd, .sse2, .Vdq, .Wdq)
    case 0x029: return row(.movaps, .sse, .Wdq, .Vdq)
    case 0x129: return row(.movapd, .sse2, .Wdq, .Vdq)
    case 0x02B: return row(.movntps, .sse, .Mdq, .Vdq)
    case 0x12B: return row(.movntpd, .sse2, .Mdq, .Vdq)
    case 0x22B: return row(.movntss, .sse4a, .Md, .Vdq)
    case 0x32B: return row(.movntsd, .sse4a, .Mq, .Vdq)
    case 0x050: return row(.movmskps, .sse, .Gy, .Udq)
    case 0x150: return row(.movmskpd, .sse2, .Gy, .Udq)

    // Conversions and comparisons.
    case 0x02A: return row(.cvtpi2ps, .sse, .Vdq, .Qq)
    case 0x12A: return row(.cvtpi2pd, .sse2, .Vdq, .Qq)
    case 0x22A: return row(.cvtsi2ss, .sse, .Vdq, .Ey)
    case 0x32A: return row(.cvtsi2sd, .sse2, .Vdq, .Ey)
    case 0x02C: return row(.cvttps2pi, .sse, .Pq, .Wq)
    case 0x12C: return row(.cvttpd2pi, .sse2, .Pq, .Wdq)
    case 0x22C: return row(.cvttss2si, .sse, .Gy, .Wd)
    case 0x32C: return row(.cvttsd2si, .sse2, .Gy, .Wq)
    case 0x02D: return row(.cvtps2pi, .sse, .Pq, .Wq)
    case 0x12D: return row(.cvtpd2pi, .sse2, .Pq, .Wdq)
    case 0x22D: return row(.cvtss2si, .sse, .Gy, .Wd)
    case 0x32D: return row(.cvtsd2si, .sse2, .Gy, .Wq)
    case 0x02E: return row(.ucomiss, .sse, .Vdq, .Wd)
    case 0x12E: return row(.ucomisd, .sse2, .Vdq, .Wq)
    case 0x02F: return row(.comiss, .sse, .Vdq, .Wd)
    case 0x12F: return row(.comisd, .sse2, .Vdq, .Wq)
    case 0x05A: return row(.cvtps2pd, .sse2, .Vdq, .Wq)
    case 0x15A: return row(.cvtpd2ps, .sse2, .Vdq, .Wdq)
    case 0x25A: return row(.cvtss2sd, .sse2, .Vdq, .Wd)
    case 0x35A: return row(.cvtsd2ss, .sse2, .Vdq, .Wq)
    case 0x05B: return row(.cvtdq2ps, .sse2, .Vdq, .Wdq)
    case 0x15B: return row(.cvtps2dq, .sse2, .Vdq, .Wdq)
    case 0x25B: return row(.cvttps2dq, .sse2, .Vdq, .Wdq)
    case 0x1E6: return row(.cvttpd2dq, .sse2, .Vdq, .Wdq)
    case 0x2E6: return row(.cvtdq2pd, .sse2, .Vdq, .Wq)
    case 0x3E6: return row(.cvtpd2dq, .sse2, .Vdq, .Wdq)
    case 0x0C2: return row(.cmpps, .sse, .Vdq, .Wdq, .Ib)
    case 0x1C2: return row(.cmppd, .sse2, .Vdq, .Wdq, .Ib)
    case 0x2C2: return row(.cmpss, .sse, .Vdq, .Wd, .Ib)
    case 0x3C2: return row(.cmpsd, .sse2, .Vdq, .Wq, .Ib)

    // Floating-point arithmetic.
    case 0x051: return row(.sqrtps, .sse, .Vdq, .Wdq)
    case 0x151: return row(.sqrtpd, .sse2, .Vdq, .Wdq)
    case 0x251: return row(.sqrtss, .sse, .Vdq, .Wd)
    case 0x351: return row(.sqrtsd, .sse2, .Vdq, .Wq)
    case 0x052: return row(.rsqrtps, .sse, .Vdq, .Wdq)
    case 0x252: return row(.rsqrtss, .sse, .Vdq, .Wd)
    case 0x053: return row(.rcpps, .sse, .Vdq, .Wdq)
    case 0x253: return row(.rcpss, .sse, .Vdq, .Wd)
    case 0x054: return row(.andps, .sse, .Vdq, .Wdq)
    case 0x154: return row(.andpd, .sse2, .Vdq, .Wdq)
    case 0x055: return row(.andnps, .sse, .Vdq, .Wdq)
    case 0x155: return row(.andnpd, .sse2, .Vdq, .Wdq)
    case 0x056: return row(.orps, .sse, .Vdq, .Wdq)
    case 0x156: return row(.orpd, .sse2, .Vdq, .Wdq)
    case 0x057: return row(.xorps, .sse, .Vdq, .Wdq)
    case 0x157: return row(.xorpd, .sse2, .Vdq, .Wdq)
    case 0x058: return row(.addps, .sse, .Vdq, .Wdq)
    case 0x158: return row(.addpd, .sse2, .Vdq, .Wdq)
    case 0x258: return row(.addss, .sse, .Vdq, .Wd)
    case 0x358: return row(.addsd, .sse2, .Vdq, .Wq)
    case 0x059: return row(.mulps, .sse, .Vdq, .Wdq)
    case 0x159: return row(.mulpd, .sse2, .Vdq, .Wdq)
    case 0x259: return row(.mulss, .sse, .Vdq, .Wd)
    case 0x359: return row(.mulsd, .sse2, .Vdq, .Wq)
    case 0x05C: return row(.subps, .sse, .Vdq, .Wdq)
    case 0x15C: return row(.subpd, .sse2, .Vdq, .Wdq)
    case 0x25C: return row(.subss, .sse, .Vdq, .Wd)
    case 0x35C: return row(.subsd, .sse2, .Vdq, .Wq)
    case 0x05D: return row(.minps, .sse, .Vdq, .Wdq)
    case 0x15D: return row(.minpd, .sse2, .Vdq, .Wdq)
    case 0x25D: return row(.minss, .sse, .Vdq, .Wd)
    case 0x35D: return row(.minsd, .sse2, .Vdq, .Wq)
    case 0x05E: return row(.divps, .sse, .Vdq, .Wdq)
    case 0x15E: return row(.divpd, .sse2, .Vdq, .Wdq)
    case 0x25E: return row(.divss, .sse, .Vdq, .Wd)
    case 0x35E: return row(.divsd, .sse2, .Vdq, .Wq)
    case 0x05F: return row(.maxps, .sse, .Vdq, .Wdq)
    case 0x15F: return row(.maxpd, .sse2, .Vdq, .Wdq)
    case 0x25F: return row(.maxss, .sse, .Vdq, .Wd)
    case 0x35F: return row(.maxsd, .sse2, .Vdq, .Wq)
    case 0x17C: return row(.haddpd, .sse3, .Vdq, .Wdq)
    case 0x37C: return row(.haddps, .sse3, .Vdq, .Wdq)
    case 0x17D: return row(.hsubpd, .sse3, .Vdq, .Wdq)
    case 0x37D: return row(.hsubps, .sse3, .Vdq, .Wdq)
    case 0x1D0: return row(.addsubpd, .sse3, .Vdq, .Wdq)
    case 0x3D0: return row(.addsubps, .sse3, .Vdq, .Wdq)
    case 0x0C6: return row(.shufps, .sse, .Vdq, .Wdq, .Ib)
    case 0x1C6: return row(.shufpd, .sse2, .Vdq, .Wdq, .Ib)

    // Integer moves and shuffles.
    case 0x06E: return row(context.w ? .movq : .movd, .mmx, .Pq, .Ey)
    case 0x16E: return row(context.w ? .movq : .movd, .sse2, .Vdq, .Ey)
    case 0x07E: return row(context.w ? .movq : .movd, .mmx, .Ey, .Pq)
    case 0x17E: return row(context.w ? .movq : .movd, .sse2, .Ey, .Vdq)
    case 0x27E: return row(.movq, .sse2, .Vdq, .Wq)
    case 0x06F: return row(.movq, .mmx, .Pq, .Qq)
    case 0x16F: return row(.movdqa, .sse2, .Vdq, .Wdq)
    case 0x26F: return row(.movdqu, .sse2, .Vdq, .Wdq)
    case 0x07F: return row(.movq, .mmx, .Qq, .Pq)
    case 0x17F: return row(.movdqa, .sse2, .Wdq, .Vdq)
    case 0x27F: return row(.movdqu, .sse2, .Wdq, .Vdq)
    case 0x1D6: return row(.movq, .sse2, .Wq, .Vdq)
    case 0x2D6: return row(.movq2dq, .sse2, .Vdq, .Nq)
    case 0x3D6: return row(.movdq2q, .sse2, .Pq, .Udq)
    case 0x0C3: return row(.movnti, .sse2, .My, .Gy)
    case 0x0E7: return row(.movntq, .sse, .Mq, .Pq)
    case 0x1E7: return row(.movntdq, .sse2, .Mdq, .Vdq)
    case 0x0F7: return row(.maskmovq, .sse, .Pq, .Nq)
    case 0x1F7: return row(.maskmovdqu, .sse2, .Vdq, .Udq)
    case 0x3F0: return row(.lddqu, .sse3, .Vdq, .Mdq)
    case 0x070: return row(.pshufw, .sse, .Pq, .Qq, .Ib)
    case 0x170: return row(.pshufd, .sse2, .Vdq, .Wdq, .Ib)
    case 0x270: return row(.pshufhw, .sse2, .Vdq, .Wdq, .Ib)
    case 0x370: return row(.pshuflw, .sse2, .Vdq, .Wdq, .Ib)
    case 0x0C4: return row(.pinsrw, .sse, .Pq, .RdMw, .Ib)
    case 0x1C4: return row(.pinsrw, .sse2, .Vdq, .RdMw, .Ib)
    case 0x0C5: return row(.pextrw, .sse, .Gd, .Nq, .Ib)
    case 0x1C5: return row(.pextrw, .sse2, .Gd, .Udq, .Ib)
    case 0x0D7: return row(.pmovmskb, .sse, .Gd, .Nq)
    case 0x1D7: return row(.pmovmskb, .sse2, .Gd, .Udq)
    case 0x16C: return row(.punpcklqdq, .sse2, .Vdq, .Wdq)
    case 0x16D: return row(.punpckhqdq, .sse2, .Vdq, .Wdq)

    // SSE4A and VMX.
    case 0x178: return group(.extractQuad)
    case 0x179: return row(.extrq, .sse4a, .Vdq, .Udq)
    case 0x378: return row(.insertq, .sse4a, .Vdq, .Udq, .Ib, .Ib2)
    case 0x379: return row(.insertq, .sse4a, .Vdq, .Udq)
    case 0x078: return row(.vmread, .vmx, .Em, .Gm, flags: .natural)
    case 0x079: return row(.vmwrite, .vmx, .Gm, .Em, flags: .natural)

    default: return packedIntegerEntry(key)
    }
}

/// MMX instructions that prefix 66 turns into their SSE2 form.
private func packedIntegerEntry(_ key: UInt16) -> TableEntry {
    guard key < 0x200 else { return .undefined }
    let mnemonic: Mnemonic
    var mmxFeature: Feature = .mmx
    switch key & 0xFF {
    case 0x60:
        if key < 0x100 { return row(.punpcklbw, .mmx, .Pq, .Qd) }
        mnemonic = .punpcklbw
    case 0x61:
        if key < 0x100 { return row(.punpcklwd, .mmx, .Pq, .Qd) }
        mnemonic = .punpcklwd
    case 0x62:
        if key < 0x100 { return row(.punpckldq, .mmx, .Pq, .Qd) }
        mnemonic = .punpckldq
    case 0x63: mnemonic = .packsswb
    case 0x64: mnemonic = .pcmpgtb
    case 0x65: mnemonic = .pcmpgtw
    case 0x66: mnemonic = .pcmpgtd
    case 0x67: mnemonic = .packuswb
    case 0x68: mnemonic = .punpckhbw
    case 0x69: mnemonic = .punpckhwd
    case 0x6A: mnemonic = .punpckhdq
    case 0x6B: mnemonic = .packssdw
    case 0x74: mnemonic = .pcmpeqb
    case 0x75: mnemonic = .pcmpeqw
    case 0x76: mnemonic = .pcmpeqd
    case 0xD1: mnemonic = .psrlw
    case 0xD2: mnemonic = .psrld
    case 0xD3: mnemonic = .psrlq
    case 0xD4: (mnemonic, mmxFeature) = (.paddq, .sse2)
    case 0xD5: mnemonic = .pmullw
    case 0xD8: mnemonic = .psubusb
    case 0xD9: mnemonic = .psubusw
    case 0xDA: (mnemonic, mmxFeature) = (.pminub, .sse)
    case 0xDB: mnemonic = .pand
    case 0xDC: mnemonic = .paddusb
    case 0xDD: mnemonic = .paddusw
    case 0xDE: (mnemonic, mmxFeature) = (.pmaxub, .sse)
    case 0xDF: mnemonic = .pandn
    case 0xE0: (mnemonic, mmxFeature) = (.pavgb, .sse)
    case 0xE1: mnemonic = .psraw
    case 0xE2: mnemonic = .psrad
    case 0xE3: (mnemonic, mmxFeature) = (.pavgw, .sse)
    case 0xE4: (mnemonic, mmxFeature) = (.pmulhuw, .sse)
    case 0xE5: mnemonic = .pmulhw
    case 0xE8: mnemonic = .psubsb
    case 0xE9: mnemonic = .psubsw
    case 0xEA: (mnemonic, mmxFeature) = (.pminsw, .sse)
    case 0xEB: mnemonic = .por
    case 0xEC: mnemonic = .paddsb
    case 0xED: mnemonic = .paddsw
    case 0xEE: (mnemonic, mmxFeature) = (.pmaxsw, .sse)
    case 0xEF: mnemonic = .pxor
    case 0xF1: mnemonic = .psllw
    case 0xF2: mnemonic = .pslld
    case 0xF3: mnemonic = .psllq
    case 0xF4: (mnemonic, mmxFeature) = (.pmuludq, .sse2)
    case 0xF5: mnemonic = .pmaddwd
    case 0xF6: (mnemonic, mmxFeature) = (.psadbw, .sse)
    case 0xF8: mnemonic = .psubb
    case 0xF9: mnemonic = .psubw
    case 0xFA: mnemonic = .psubd
    case 0xFB: (mnemonic, mmxFeature) = (.psubq, .sse2)
    case 0xFC: mnemonic = .paddb
    case 0xFD: mnemonic = .paddw
    case 0xFE: mnemonic = .paddd
    default: return .undefined
    }
    return key < 0x100 ? row(mnemonic, mmxFeature, .Pq, .Qq) : row(mnemonic, .sse2, .Vdq, .Wdq)
}
