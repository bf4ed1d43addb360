/// The groups of VEX and EVEX opcodes.
func vectorGroupEntry(
    _ group: OpcodeGroup, opcode: UInt8, modRM: UInt8, _ context: EntryContext
) -> TableEntry {
    let reg = (modRM >> 3) & 7
    let rm = modRM & 7
    let isRegister = modRM >= 0xC0
    switch group {
    case .vexGroup12, .vexGroup13, .vexGroup14:
        return isRegister && isShift(group, reg)
            ? vex(.avx, .integer, .Hx, .Ux, .Ib) : .undefined
    case .vexGroup15:
        // VLDMXCSR and VSTMXCSR.
        return !isRegister && (reg == 2 || reg == 3) ? vex(.avx, .l128, .Md) : .undefined
    case .vexGroup17:
        switch reg {
        case 1: return vex(.blsr, .bmi1, .By, .Ey)
        case 2: return vex(.blsmsk, .bmi1, .By, .Ey)
        case 3: return vex(.blsi, .bmi1, .By, .Ey)
        default: return .undefined
        }
    case .vexTiles:
        let flags: VectorFlags = [.w0, .l128, .only64]
        switch (context.prefix, isRegister) {
        case (0, true): return reg == 0 && rm == 0 ? vex(.amx, flags) : .undefined
        case (0, false), (1, false): return reg == 0 ? vex(.amx, flags, .M64) : .undefined
        // ModRM.rm is reserved.
        case (3, true): return rm == 0 ? vex(.amx, flags, .Tg) : .undefined
        default: return .undefined
        }
    case .vexMoveLow:
        return vex(.avx, .l128, .Vdq, .Hdq, isRegister ? .Udq : .Mq)
    case .vexMoveScalarSingle, .vexMoveScalarDouble:
        let memory: OperandSpecification = group == .vexMoveScalarSingle ? .Md : .Mq
        if opcode == 0x10 {
            return isRegister
                ? vex(.avx, .lig, .Vdq, .Hdq, .Udq) : vex(.avx, .lig, .Vdq, memory)
        }
        return isRegister ? vex(.avx, .lig, .Udq, .Hdq, .Vdq) : vex(.avx, .lig, memory, .Vdq)

    case .evexGroup12: return isShift(group, reg) ? evex(.mz, .Hx, .Wx, .Ib) : .undefined
    case .evexGroup13:
        switch reg {
        case 0, 1, 4: return evex(.mzb, .Hx, .Wx, .Ib)
        case 2, 6: return evex([.w0, .mzb], .Hx, .Wx, .Ib)
        default: return .undefined
        }
    case .evexGroup14:
        switch reg {
        case 2, 6: return evex([.w1, .mzb], .Hx, .Wx, .Ib)
        case 3, 7: return evex([], .Hx, .Wx, .Ib)
        default: return .undefined
        }
    case .evexMoveLow: return evex([.w0, .l128], .Vdq, .Hdq, isRegister ? .Udq : .Mq)
    case .evexMoveScalarSingle:
        return evexMoveScalar(opcode, isRegister, [.w0, .scalar], .Md)
    case .evexMoveScalarDouble:
        return evexMoveScalar(opcode, isRegister, [.w1, .scalar], .Mq)
    case .evexMoveScalarHalf:
        return evexMoveScalar(opcode, isRegister, [.w0, .scalar], .Mw)
    default: return .undefined
    }
}

private func evexMoveScalar(
    _ opcode: UInt8, _ isRegister: Bool, _ flags: VectorFlags, _ memory: OperandSpecification
) -> TableEntry {
    if opcode == 0x10 {
        return isRegister ? evex(flags, .Vdq, .Hdq, .Udq) : evex(flags, .Vdq, memory)
    }
    return isRegister ? evex(flags, .Udq, .Hdq, .Vdq) : evex(flags, memory, .Vdq)
}

/// Whether groups 12 to 14 have a shift at `reg`.
private func isShift(_ group: OpcodeGroup, _ reg: UInt8) -> Bool {
    switch group {
    case .vexGroup14: reg == 2 || reg == 3 || reg == 6 || reg == 7
    default: reg == 2 || reg == 4 || reg == 6
    }
}
