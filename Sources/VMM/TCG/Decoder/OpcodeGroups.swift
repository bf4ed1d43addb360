/// Opcodes whose instruction ModRM chooses (SDM volume 2, table A-6); the numbered groups have
/// Intel's numbers.
enum OpcodeGroup: UInt8, BitwiseCopyable {
    case none
    case arithmeticByte, arithmetic, arithmeticSigned
    case popModRM
    case shiftByteImmediate, shiftImmediate, shiftByteOne, shiftOne, shiftByteCL, shiftCL
    case unaryByte, unary, incrementByte, increment
    case moveByteImmediate, moveImmediate
    case group6, group7, group8, group9, group12, group13, group14, group15
    case prefetchWrite, hint, moveLow, moveHigh, extractQuad
    case keyLockerWide, keyLockerDC, hreset
    case x87
    // VEX and EVEX.
    case vexGroup12, vexGroup13, vexGroup14, vexGroup15, vexGroup17
    case vexTiles
    case vexMoveLow, vexMoveScalarSingle, vexMoveScalarDouble
    case evexGroup12, evexGroup13, evexGroup14, evexMoveLow
    case evexMoveScalarSingle, evexMoveScalarDouble, evexMoveScalarHalf
}

/// The instruction that `modRM` chooses among those of `group`.
func groupEntry(
    _ group: OpcodeGroup, opcode: UInt8, modRM: UInt8, _ context: EntryContext
) -> TableEntry {
    let reg = (modRM >> 3) & 7
    let isRegister = modRM >= 0xC0
    switch group {
    case .arithmeticByte:
        return row(
            arithmeticMnemonic(reg), .Eb, .sIb, flags: reg == 7 ? .byte : .byteLock)
    case .arithmetic:
        return row(arithmeticMnemonic(reg), .Ev, .Iz, flags: reg == 7 ? [] : .lock)
    case .arithmeticSigned:
        return row(arithmeticMnemonic(reg), .Ev, .sIb, flags: reg == 7 ? [] : .lock)
    case .popModRM: return reg == 0 ? row(.pop, .Ev, flags: .default64) : .undefined
    case .shiftByteImmediate: return row(shiftMnemonic(reg), .Eb, .Ib, flags: .byte)
    case .shiftImmediate: return row(shiftMnemonic(reg), .Ev, .Ib)
    case .shiftByteOne: return row(shiftMnemonic(reg), .Eb, .const1, flags: .byte)
    case .shiftOne: return row(shiftMnemonic(reg), .Ev, .const1)
    case .shiftByteCL: return row(shiftMnemonic(reg), .Eb, .CL, flags: .byte)
    case .shiftCL: return row(shiftMnemonic(reg), .Ev, .CL)
    case .unaryByte, .unary: return unaryEntry(reg, isByte: group == .unaryByte)
    case .incrementByte:
        return reg < 2 ? row(reg == 0 ? .inc : .dec, .Eb, flags: .byteLock) : .undefined
    case .increment: return incrementEntry(reg)
    case .moveByteImmediate:
        if reg == 0 { return row(.mov, .Eb, .sIb, flags: .byte) }
        return modRM == 0xF8 ? row(.xabort, .tsx, .Ib) : .undefined
    case .moveImmediate:
        if reg == 0 { return row(.mov, .Ev, .Iz) }
        return modRM == 0xF8 ? row(.xbegin, .tsx, .Jz) : .undefined
    case .group6: return group6Entry(reg)
    case .group7:
        return isRegister ? group7Register(modRM, context) : group7Memory(reg, context)
    case .group8:
        switch reg {
        case 4: return row(.bt, .Ev, .Ib)
        case 5: return row(.bts, .Ev, .Ib, flags: .lock)
        case 6: return row(.btr, .Ev, .Ib, flags: .lock)
        case 7: return row(.btc, .Ev, .Ib, flags: .lock)
        default: return .undefined
        }
    case .group9: return group9Entry(reg, isRegister: isRegister, context)
    case .group12, .group13, .group14:
        return isRegister ? shiftVectorEntry(group, reg, context).prefixed : .undefined
    case .group15:
        return (isRegister ? group15Register(reg, context) : group15Memory(reg, context))
            .prefixed
    case .prefetchWrite:
        return isRegister ? row(.nop, .Ev, .Gv) : row(.prefetch, .Mb)
    case .hint: return hintEntry(opcode, modRM: modRM, context)
    case .moveLow:
        return isRegister ? row(.movhlps, .sse, .Vdq, .Udq) : row(.movlps, .sse, .Vdq, .Mq)
    case .moveHigh:
        return isRegister ? row(.movlhps, .sse, .Vdq, .Udq) : row(.movhps, .sse, .Vdq, .Mq)
    case .extractQuad:
        return isRegister && reg == 0 ? row(.extrq, .sse4a, .Udq, .Ib, .Ib2).prefixed : .undefined
    case .keyLockerWide:
        switch isRegister ? 8 : reg {
        case 0: return row(.aesencwide128kl, .keyLocker, .M48)
        case 1: return row(.aesdecwide128kl, .keyLocker, .M48)
        case 2: return row(.aesencwide256kl, .keyLocker, .M64)
        case 3: return row(.aesdecwide256kl, .keyLocker, .M64)
        default: return .undefined
        }
    case .keyLockerDC:
        return isRegister
            ? row(.loadiwkey, .keyLocker, .Vdq, .Udq)
            : row(.aesenc128kl, .keyLocker, .Vdq, .M48)
    case .hreset: return modRM == 0xC0 ? row(.hreset, .hreset, .Ib) : .undefined
    case .x87: return x87Entry(opcode, modRM: modRM)
    default:
        return vectorGroupEntry(group, opcode: opcode, modRM: modRM, context)
    }
}

private func shiftMnemonic(_ reg: UInt8) -> Mnemonic {
    switch reg {
    case 0: return .rol
    case 1: return .ror
    case 2: return .rcl
    case 3: return .rcr
    case 5: return .shr
    case 7: return .sar
    default: return .shl
    }
}

private func unaryEntry(_ reg: UInt8, isByte: Bool) -> TableEntry {
    let operand: OperandSpecification = isByte ? .Eb : .Ev
    let size: TableEntry.Flags = isByte ? .byte : []
    switch reg {
    case 0, 1: return row(.test, operand, isByte ? .sIb : .Iz, flags: size)
    case 2: return row(.not, operand, flags: size.union(.lock))
    case 3: return row(.neg, operand, flags: size.union(.lock))
    case 4: return row(.mul, operand, flags: size)
    case 5: return row(.imul, operand, flags: size)
    case 6: return row(.div, operand, flags: size)
    default: return row(.idiv, operand, flags: size)
    }
}

private func incrementEntry(_ reg: UInt8) -> TableEntry {
    switch reg {
    case 0: return row(.inc, .Ev, flags: .lock)
    case 1: return row(.dec, .Ev, flags: .lock)
    case 2: return row(.call, .Ev, flags: .force64)
    case 3: return row(.callFar, .Mp)
    case 4: return row(.jmp, .Ev, flags: .force64)
    case 5: return row(.jmpFar, .Mp)
    case 6: return row(.push, .Ev, flags: .default64)
    default: return .undefined
    }
}

private func group6Entry(_ reg: UInt8) -> TableEntry {
    switch reg {
    case 0: return row(.sldt, .RvMw)
    case 1: return row(.str, .RvMw)
    case 2: return row(.lldt, .Ew)
    case 3: return row(.ltr, .Ew)
    case 4: return row(.verr, .Ew)
    case 5: return row(.verw, .Ew)
    default: return .undefined
    }
}

private func group7Memory(_ reg: UInt8, _ context: EntryContext) -> TableEntry {
    switch reg {
    case 0: return row(.sgdt, .Ms, flags: .force64)
    case 1: return row(.sidt, .Ms, flags: .force64)
    case 2: return row(.lgdt, .Ms, flags: .force64)
    case 3: return row(.lidt, .Ms, flags: .force64)
    case 4: return row(.smsw, .Mw)
    case 5: return context.prefix == 2 ? row(.rstorssp, .cet, .Mq) : .undefined
    case 6: return row(.lmsw, .Mw)
    default: return row(.invlpg, .Mb)
    }
}

/// 0F01 with a register form of ModRM; `key` is the mandatory prefix and ModRM.
private func group7Register(_ modRM: UInt8, _ context: EntryContext) -> TableEntry {
    if modRM & 0x38 == 0x20 { return row(.smsw, .Rv) }
    if modRM & 0x38 == 0x30 { return row(.lmsw, .Ew) }
    switch modRM {
    case 0xF8: return context.is64 ? row(.swapgs) : .undefined
    case 0xF9: return row(.rdtscp, .rdtscp)
    case 0xD8: return row(.vmrun, .svm, .aAX)
    case 0xD9: return row(.vmmcall, .svm)
    case 0xDA: return row(.vmload, .svm, .aAX)
    case 0xDB: return row(.vmsave, .svm, .aAX)
    case 0xDC: return row(.stgi, .svm)
    case 0xDD: return row(.clgi, .svm)
    case 0xDE: return row(.skinit, .svm, .fixedEAX)
    case 0xDF: return row(.invlpga, .svm, .aAX, .fixedECX)
    case 0xFC: return row(.clzero, .amd, .aAX)
    case 0xFD: return row(.rdpru, .amd)
    default: break
    }
    switch UInt16(context.prefix) << 8 | UInt16(modRM) {
    case 0x0C0: return row(.enclv, .sgx)
    case 0x0C1: return row(.vmcall, .vmx)
    case 0x0C2: return row(.vmlaunch, .vmx)
    case 0x0C3: return row(.vmresume, .vmx)
    case 0x0C4: return row(.vmxoff, .vmx)
    case 0x0C5: return row(.pconfig, .pconfig)
    case 0x0C8: return row(.monitor, .monitor)
    case 0x0C9: return row(.mwait, .monitor)
    case 0x0CA: return row(.clac, .smap)
    case 0x0CB: return row(.stac, .smap)
    case 0x1CC: return row(.tdcall, .tdx)
    case 0x1CD: return row(.seamret, .tdx, flags: .only64)
    case 0x1CE: return row(.seamops, .tdx, flags: .only64)
    case 0x1CF: return row(.seamcall, .tdx, flags: .only64)
    case 0x0CF: return row(.encls, .sgx)
    case 0x0D0: return row(.xgetbv, .xsave)
    case 0x0D1: return row(.xsetbv, .xsave)
    case 0x0D4: return row(.vmfunc, .vmx)
    case 0x0D5: return row(.xend, .tsx)
    case 0x0D6: return row(.xtest, .tsx)
    case 0x0D7: return row(.enclu, .sgx)
    case 0x0E8: return row(.serialize, .serialize)
    case 0x2E8: return row(.setssbsy, .cet)
    case 0x3E8: return row(.xsusldtrk, .tsx)
    case 0x3E9: return row(.xresldtrk, .tsx)
    case 0x2EA: return row(.saveprevssp, .cet)
    case 0x2EC: return row(.uiret, .uintr, flags: .only64)
    case 0x2ED: return row(.testui, .uintr, flags: .only64)
    case 0x2EE: return row(.clui, .uintr, flags: .only64)
    case 0x2EF: return row(.stui, .uintr, flags: .only64)
    case 0x0EE: return row(.rdpkru, .pku)
    case 0x0EF: return row(.wrpkru, .pku)
    case 0x0FA: return row(.monitorx, .amd)
    case 0x2FA: return row(.mcommit, .amd)
    case 0x0FB: return row(.mwaitx, .amd)
    case 0x0FE: return row(.invlpgb, .svm, .aAX, .fixedEDX, .fixedECX)
    case 0x2FE: return row(.rmpadjust, .svm, .fixedRAX, .fixedRCX, .fixedRDX, flags: .only64)
    case 0x3FE: return row(.rmpupdate, .svm, .fixedRAX, .fixedRCX, flags: .only64)
    case 0x0FF: return row(.tlbsync, .svm)
    case 0x2FF: return row(.psmash, .svm, .fixedRAX, flags: .only64)
    case 0x3FF: return row(.pvalidate, .svm, .aAX, .fixedECX, .fixedEDX)
    default: return .undefined
    }
}

private func group9Entry(
    _ reg: UInt8, isRegister: Bool, _ context: EntryContext
) -> TableEntry {
    switch (reg, isRegister) {
    case (1, false):
        return context.w
            ? row(.cmpxchg16b, .cmpxchg16b, .Mcx, flags: .lock)
            : row(.cmpxchg8b, .cmpxchg8b, .Mcx, flags: .lock)
    case (3, false): return context.prefix == 0 ? row(.xrstors, .xsaves, .M) : .undefined
    case (4, false): return context.prefix == 0 ? row(.xsavec, .xsavec, .M) : .undefined
    case (5, false): return context.prefix == 0 ? row(.xsaves, .xsaves, .M) : .undefined
    case (6, false):
        switch context.prefix {
        case 0: return row(.vmptrld, .vmx, .Mq)
        case 1: return row(.vmclear, .vmx, .Mq)
        case 2: return row(.vmxon, .vmx, .Mq)
        default: return .undefined
        }
    case (7, false): return context.prefix == 0 ? row(.vmptrst, .vmx, .Mq) : .undefined
    case (6, true):
        switch context.prefix {
        case 0, 1: return row(.rdrand, .rdrand, .Rv)
        case 2: return row(.senduipi, .uintr, .Rd, flags: .only64)
        default: return .undefined
        }
    case (7, true):
        switch context.prefix {
        case 0, 1: return row(.rdseed, .rdseed, .Rv)
        case 2: return row(.rdpid, .rdpid, .Rm)
        default: return .undefined
        }
    default: return .undefined
    }
}

/// 0F71-0F73: shifts of MMX and XMM registers by an immediate.
private func shiftVectorEntry(
    _ group: OpcodeGroup, _ reg: UInt8, _ context: EntryContext
) -> TableEntry {
    guard context.prefix < 2 else { return .undefined }
    let isXMM = context.prefix == 1
    let mnemonic: Mnemonic
    switch (group, reg) {
    case (.group12, 2): mnemonic = .psrlw
    case (.group12, 4): mnemonic = .psraw
    case (.group12, 6): mnemonic = .psllw
    case (.group13, 2): mnemonic = .psrld
    case (.group13, 4): mnemonic = .psrad
    case (.group13, 6): mnemonic = .pslld
    case (.group14, 2): mnemonic = .psrlq
    case (.group14, 6): mnemonic = .psllq
    case (.group14, 3) where isXMM: mnemonic = .psrldq
    case (.group14, 7) where isXMM: mnemonic = .pslldq
    default: return .undefined
    }
    return isXMM ? row(mnemonic, .sse2, .Udq, .Ib) : row(mnemonic, .mmx, .Nq, .Ib)
}

private func group15Memory(_ reg: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(reg) {
    case 0x000: return row(.fxsave, .fxsr, .M)
    case 0x001: return row(.fxrstor, .fxsr, .M)
    case 0x002: return row(.ldmxcsr, .sse, .Md)
    case 0x003: return row(.stmxcsr, .sse, .Md)
    case 0x004: return row(.xsave, .xsave, .M)
    case 0x005: return row(.xrstor, .xsave, .M)
    case 0x006: return row(.xsaveopt, .xsaveopt, .M)
    case 0x007: return row(.clflush, .clflush, .M64)
    case 0x106: return row(.clwb, .clwb, .M64)
    case 0x107: return row(.clflushopt, .clflushopt, .M64)
    case 0x204: return row(.ptwrite, .ptwrite, .Ey)
    case 0x206: return row(.clrssbsy, .cet, .Mq)
    default: return .undefined
    }
}

private func group15Register(_ reg: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(reg) {
    case 0x005: return row(.lfence, .sse2)
    case 0x006: return row(.mfence, .sse2)
    case 0x007: return row(.sfence, .sse)
    case 0x106: return row(.tpause, .waitpkg, .Rd)
    case 0x200: return row(.rdfsbase, .fsgsbase, .Ry, flags: .only64)
    case 0x201: return row(.rdgsbase, .fsgsbase, .Ry, flags: .only64)
    case 0x202: return row(.wrfsbase, .fsgsbase, .Ry, flags: .only64)
    case 0x203: return row(.wrgsbase, .fsgsbase, .Ry, flags: .only64)
    case 0x204: return row(.ptwrite, .ptwrite, .Ey)
    case 0x205: return row(.incssp, .cet, .Ry)
    case 0x206: return row(.umonitor, .waitpkg, .Ra)
    case 0x306: return row(.umwait, .waitpkg, .Rd)
    default: return .undefined
    }
}

/// 0F18-0F1F: prefetches, hints that do nothing, and what CET made of some of them.
private func hintEntry(_ opcode: UInt8, modRM: UInt8, _ context: EntryContext) -> TableEntry {
    let reg = (modRM >> 3) & 7
    switch opcode {
    case 0x18:
        return modRM < 0xC0 && reg < 4 ? row(.prefetch, .sse, .Mb) : row(.nop, .Ev)
    case 0x1E where context.prefix == 2 && modRM >= 0xC0:
        if modRM == 0xFA { return row(.endbr64) }
        if modRM == 0xFB { return row(.endbr32) }
        return reg == 1 ? row(.rdssp, .Ry) : row(.nop, .Ev, .Gv)
    default: return row(.nop, .Ev, .Gv)
    }
}
