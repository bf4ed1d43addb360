/// x87 escapes D8-DF (SDM volume 2, tables ).
func x87Entry(_ opcode: UInt8, modRM: UInt8) -> TableEntry {
    let reg = (modRM >> 3) & 7
    return modRM < 0xC0
        ? x87MemoryEntry(opcode, reg) : x87RegisterEntry(opcode, reg, rm: modRM & 7)
}

private func x87(
    _ mnemonic: Mnemonic, _ a: OperandSpecification = .none, _ b: OperandSpecification = .none
) -> TableEntry {
    row(mnemonic, .fpu, a, b)
}

private func x87Arithmetic(_ reg: UInt8) -> Mnemonic {
    switch reg {
    case 0: return .fadd
    case 1: return .fmul
    case 2: return .fcom
    case 3: return .fcomp
    case 4: return .fsub
    case 5: return .fsubr
    case 6: return .fdiv
    default: return .fdivr
    }
}

private func x87IntegerArithmetic(_ reg: UInt8) -> Mnemonic {
    switch reg {
    case 0: return .fiadd
    case 1: return .fimul
    case 2: return .ficom
    case 3: return .ficomp
    case 4: return .fisub
    case 5: return .fisubr
    case 6: return .fidiv
    default: return .fidivr
    }
}

private func x87MemoryEntry(_ opcode: UInt8, _ reg: UInt8) -> TableEntry {
    switch (opcode, reg) {
    case (0xD8, _): return x87(x87Arithmetic(reg), .Md)
    case (0xDC, _): return x87(x87Arithmetic(reg), .Mq)
    case (0xDA, _): return x87(x87IntegerArithmetic(reg), .Md)
    case (0xDE, _): return x87(x87IntegerArithmetic(reg), .Mw)
    case (0xD9, 0): return x87(.fld, .Md)
    case (0xD9, 2): return x87(.fst, .Md)
    case (0xD9, 3): return x87(.fstp, .Md)
    case (0xD9, 4): return x87(.fldenv, .Menv)
    case (0xD9, 5): return x87(.fldcw, .Mw)
    case (0xD9, 6): return x87(.fnstenv, .Menv)
    case (0xD9, 7): return x87(.fnstcw, .Mw)
    case (0xDB, 0): return x87(.fild, .Md)
    case (0xDB, 1): return row(.fisttp, .fisttp, .Md)
    case (0xDB, 2): return x87(.fist, .Md)
    case (0xDB, 3): return x87(.fistp, .Md)
    case (0xDB, 5): return x87(.fld, .Mt)
    case (0xDB, 7): return x87(.fstp, .Mt)
    case (0xDD, 0): return x87(.fld, .Mq)
    case (0xDD, 1): return row(.fisttp, .fisttp, .Mq)
    case (0xDD, 2): return x87(.fst, .Mq)
    case (0xDD, 3): return x87(.fstp, .Mq)
    case (0xDD, 4): return x87(.frstor, .Mstate)
    case (0xDD, 6): return x87(.fnsave, .Mstate)
    case (0xDD, 7): return x87(.fnstsw, .Mw)
    case (0xDF, 0): return x87(.fild, .Mw)
    case (0xDF, 1): return row(.fisttp, .fisttp, .Mw)
    case (0xDF, 2): return x87(.fist, .Mw)
    case (0xDF, 3): return x87(.fistp, .Mw)
    case (0xDF, 4): return x87(.fbld, .Mt)
    case (0xDF, 5): return x87(.fild, .Mq)
    case (0xDF, 6): return x87(.fbstp, .Mt)
    case (0xDF, 7): return x87(.fistp, .Mq)
    default: return .undefined
    }
}

private func x87RegisterEntry(_ opcode: UInt8, _ reg: UInt8, rm: UInt8) -> TableEntry {
    switch (opcode, reg) {
    // FCOM, FCOMP, FXCH and FSTP have undocumented aliases that every processor executes.
    case (0xD8, 2), (0xDC, 2): return x87(.fcom, .STi)
    case (0xD8, 3), (0xDC, 3), (0xDE, 2): return x87(.fcomp, .STi)
    case (0xD8, _): return x87(x87Arithmetic(reg), .ST0, .STi)
    case (0xDC, 4): return x87(.fsubr, .STi, .ST0)
    case (0xDC, 5): return x87(.fsub, .STi, .ST0)
    case (0xDC, 6): return x87(.fdivr, .STi, .ST0)
    case (0xDC, 7): return x87(.fdiv, .STi, .ST0)
    case (0xDC, _): return x87(x87Arithmetic(reg), .STi, .ST0)
    case (0xD9, 0): return x87(.fld, .STi)
    case (0xD9, 1), (0xDD, 1), (0xDF, 1): return x87(.fxch, .STi)
    case (0xD9, 2): return rm == 0 ? x87(.fnop) : .undefined
    case (0xD9, 3), (0xDD, 3), (0xDF, 2), (0xDF, 3): return x87(.fstp, .STi)
    case (0xD9, _): return x87D9Entry(reg << 3 | rm)
    case (0xDA, 0): return row(.fcmovb, .cmov, .ST0, .STi)
    case (0xDA, 1): return row(.fcmove, .cmov, .ST0, .STi)
    case (0xDA, 2): return row(.fcmovbe, .cmov, .ST0, .STi)
    case (0xDA, 3): return row(.fcmovu, .cmov, .ST0, .STi)
    case (0xDA, 5): return rm == 1 ? x87(.fucompp) : .undefined
    case (0xDB, 0): return row(.fcmovnb, .cmov, .ST0, .STi)
    case (0xDB, 1): return row(.fcmovne, .cmov, .ST0, .STi)
    case (0xDB, 2): return row(.fcmovnbe, .cmov, .ST0, .STi)
    case (0xDB, 3): return row(.fcmovnu, .cmov, .ST0, .STi)
    case (0xDB, 4):
        switch rm {
        case 0: return x87(.fneni)
        case 1: return x87(.fndisi)
        case 2: return x87(.fnclex)
        case 3: return x87(.fninit)
        case 4: return x87(.fnsetpm)
        default: return .undefined
        }
    case (0xDB, 5): return row(.fucomi, .cmov, .ST0, .STi)
    case (0xDB, 6): return row(.fcomi, .cmov, .ST0, .STi)
    case (0xDD, 0): return x87(.ffree, .STi)
    case (0xDD, 2): return x87(.fst, .STi)
    case (0xDD, 4): return x87(.fucom, .STi)
    case (0xDD, 5): return x87(.fucomp, .STi)
    case (0xDE, 0): return x87(.faddp, .STi, .ST0)
    case (0xDE, 1): return x87(.fmulp, .STi, .ST0)
    case (0xDE, 3): return rm == 1 ? x87(.fcompp) : .undefined
    case (0xDE, 4): return x87(.fsubrp, .STi, .ST0)
    case (0xDE, 5): return x87(.fsubp, .STi, .ST0)
    case (0xDE, 6): return x87(.fdivrp, .STi, .ST0)
    case (0xDE, 7): return x87(.fdivp, .STi, .ST0)
    case (0xDF, 0): return x87(.ffreep, .STi)
    case (0xDF, 4): return rm == 0 ? x87(.fnstsw, .fixedAX) : .undefined
    case (0xDF, 5): return row(.fucomip, .cmov, .ST0, .STi)
    case (0xDF, 6): return row(.fcomip, .cmov, .ST0, .STi)
    default: return .undefined
    }
}

/// D9 E0 to D9 FF: instructions without operands.
private func x87D9Entry(_ number: UInt8) -> TableEntry {
    switch number {
    case 0x20: return x87(.fchs)
    case 0x21: return x87(.fabs)
    case 0x24: return x87(.ftst)
    case 0x25: return x87(.fxam)
    case 0x28: return x87(.fld1)
    case 0x29: return x87(.fldl2t)
    case 0x2A: return x87(.fldl2e)
    case 0x2B: return x87(.fldpi)
    case 0x2C: return x87(.fldlg2)
    case 0x2D: return x87(.fldln2)
    case 0x2E: return x87(.fldz)
    case 0x30: return x87(.f2xm1)
    case 0x31: return x87(.fyl2x)
    case 0x32: return x87(.fptan)
    case 0x33: return x87(.fpatan)
    case 0x34: return x87(.fxtract)
    case 0x35: return x87(.fprem1)
    case 0x36: return x87(.fdecstp)
    case 0x37: return x87(.fincstp)
    case 0x38: return x87(.fprem)
    case 0x39: return x87(.fyl2xp1)
    case 0x3A: return x87(.fsqrt)
    case 0x3B: return x87(.fsincos)
    case 0x3C: return x87(.frndint)
    case 0x3D: return x87(.fscale)
    case 0x3E: return x87(.fsin)
    case 0x3F: return x87(.fcos)
    default: return .undefined
    }
}
