/// The EVEX opcode map 1 (0F).
func evexMap1Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    // Moves.
    case 0x010, 0x110, 0x028, 0x128: return evex(packed: context, .mz, .Vx, .Wx)
    case 0x011, 0x111, 0x029, 0x129: return evex(packed: context, .mz, .Wx, .Vx)
    case 0x210, 0x211: return group(.evexMoveScalarSingle)
    case 0x310, 0x311: return group(.evexMoveScalarDouble)
    case 0x012, 0x016: return group(.evexMoveLow)
    case 0x112, 0x116: return evex([.w1, .l128], .Vdq, .Hdq, .Mq)
    case 0x212, 0x216: return evex([.w0, .mz], .Vx, .Wx)
    case 0x312: return evex([.w1, .mz], .Vx, .Wdup)
    case 0x013, 0x017: return evex([.w0, .l128], .Mq, .Vdq)
    case 0x113, 0x117: return evex([.w1, .l128], .Mq, .Vdq)
    case 0x02B, 0x12B: return evex(packed: context, [], .Mx, .Vx)
    case 0x1E7: return evex(.w0, .Mx, .Vx)
    case 0x16E: return evex(.l128, .Vdq, .Ey)
    case 0x17E: return evex(.l128, .Ey, .Vdq)
    case 0x27E: return evex([.w1, .l128], .Vdq, .Wq)
    case 0x1D6: return evex([.w1, .l128], .Wq, .Vdq)
    case 0x16F, 0x26F, 0x36F: return evex(.mz, .Vx, .Wx)
    case 0x17F, 0x27F, 0x37F: return evex(.mz, .Wx, .Vx)
    case 0x1C4: return evex(.l128, .Vdq, .Hdq, .RdMw, .Ib)
    case 0x1C5: return evex(.l128, .Gd, .Udq, .Ib)

    // Floating-point arithmetic.
    case 0x051, 0x151: return evex(packed: context, .er, .Vx, .Wx)
    case 0x014, 0x114, 0x015, 0x115, 0x054...0x057, 0x154...0x157:
        return evex(packed: context, .mzb, .Vx, .Hx, .Wx)
    case 0x058, 0x158, 0x059, 0x159, 0x05C, 0x15C, 0x05E, 0x15E:
        return evex(packed: context, .er, .Vx, .Hx, .Wx)
    case 0x05D, 0x15D, 0x05F, 0x15F: return evex(packed: context, .sae, .Vx, .Hx, .Wx)
    case 0x251, 0x258, 0x259, 0x25C, 0x25E: return evex([.w0, .scalarER], .Vdq, .Hdq, .Wd)
    case 0x351, 0x358, 0x359, 0x35C, 0x35E: return evex([.w1, .scalarER], .Vdq, .Hdq, .Wq)
    case 0x25D, 0x25F: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Wd)
    case 0x35D, 0x35F: return evex([.w1, .scalarSAE], .Vdq, .Hdq, .Wq)
    case 0x0C2, 0x1C2:
        return evex(packed: context, [.mb, .suppress], .Kg, .Hx, .Wx, .Ib)
    case 0x2C2: return evex([.w0, .lig, .mask, .suppress], .Kg, .Hdq, .Wd, .Ib)
    case 0x3C2: return evex([.w1, .lig, .mask, .suppress], .Kg, .Hdq, .Wq, .Ib)
    case 0x0C6, 0x1C6: return evex(packed: context, .mzb, .Vx, .Hx, .Wx, .Ib)

    // Conversions of scalars.
    // A 32-bit integer becomes a double exactly; the rounding mode is allowed but ignored.
    case 0x22A, 0x27B, 0x32A, 0x37B: return evex([.lig, .rounding], .Vdq, .Hdq, .Ey)
    case 0x22C, 0x278: return evex([.lig, .suppress], .Gy, .Wd)
    case 0x32C, 0x378: return evex([.lig, .suppress], .Gy, .Wq)
    case 0x22D, 0x279: return evex([.lig, .rounding], .Gy, .Wd)
    case 0x32D, 0x379: return evex([.lig, .rounding], .Gy, .Wq)
    case 0x02E, 0x02F: return evex([.w0, .lig, .suppress], .Vdq, .Wd)
    case 0x12E, 0x12F: return evex([.w1, .lig, .suppress], .Vdq, .Wq)
    case 0x25A: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Wd)
    case 0x35A: return evex([.w1, .scalarER], .Vdq, .Hdq, .Wq)
    default: return evexConversionEntry(opcode, context)
    }
}

/// Conversions of packed numbers, in map 1.
private func evexConversionEntry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    let w = context.w
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x05A: return evex([.w0, .sae], .Vx, .Wh)
    case 0x15A: return evex([.w1, .er], .Vh, .Wx)
    case 0x05B: return w ? evex(.er, .Vh, .Wx) : evex(.er, .Vx, .Wx)
    case 0x15B: return evex([.w0, .er], .Vx, .Wx)
    case 0x25B: return evex([.w0, .sae], .Vx, .Wx)
    case 0x078: return w ? evex(.sae, .Vh, .Wx) : evex(.sae, .Vx, .Wx)
    case 0x079: return w ? evex(.er, .Vh, .Wx) : evex(.er, .Vx, .Wx)
    case 0x178, 0x17A: return w ? evex(.sae, .Vx, .Wx) : evex(.sae, .Vx, .Wh)
    case 0x179, 0x17B: return w ? evex(.er, .Vx, .Wx) : evex(.er, .Vx, .Wh)
    case 0x27A, 0x2E6: return w ? evex(.er, .Vx, .Wx) : evex(.er, .Vx, .Wh)
    case 0x37A: return w ? evex(.er, .Vh, .Wx) : evex(.er, .Vx, .Wx)
    case 0x1E6: return evex([.w1, .sae], .Vh, .Wx)
    case 0x3E6: return evex([.w1, .er], .Vh, .Wx)
    default: return evexIntegerEntry(opcode, context)
    }
}

/// Integer instructions, in map 1.
private func evexIntegerEntry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x160, 0x161, 0x163, 0x167...0x169, 0x1D5, 0x1D8...0x1DA, 0x1DC...0x1DE, 0x1E0,
        0x1E3...0x1E5, 0x1E8...0x1EA, 0x1EC...0x1EE, 0x1F5, 0x1F8, 0x1F9, 0x1FC, 0x1FD:
        return evex(.mz, .Vx, .Hx, .Wx)
    case 0x162, 0x16A, 0x16B, 0x1FA, 0x1FE: return evex([.w0, .mzb], .Vx, .Hx, .Wx)
    case 0x16C, 0x16D, 0x1D4, 0x1F4, 0x1FB: return evex([.w1, .mzb], .Vx, .Hx, .Wx)
    case 0x1DB, 0x1DF, 0x1EB, 0x1EF: return evex(.mzb, .Vx, .Hx, .Wx)
    case 0x164, 0x165, 0x174, 0x175: return evex(.mask, .Kg, .Hx, .Wx)
    case 0x166, 0x176: return evex([.w0, .mb], .Kg, .Hx, .Wx)
    case 0x170: return evex([.w0, .mzb], .Vx, .Wx, .Ib)
    case 0x270, 0x370: return evex(.mz, .Vx, .Wx, .Ib)
    case 0x171: return group(.evexGroup12)
    case 0x172: return group(.evexGroup13)
    case 0x173: return group(.evexGroup14)
    case 0x1D1, 0x1E1, 0x1E2, 0x1F1: return evex(.mz, .Vx, .Hx, .Wdq)
    case 0x1D2, 0x1F2: return evex([.w0, .mz], .Vx, .Hx, .Wdq)
    case 0x1D3, 0x1F3: return evex([.w1, .mz], .Vx, .Hx, .Wdq)
    case 0x1F6: return evex([], .Vx, .Hx, .Wx)
    default: return .undefined
    }
}

/// The EVEX opcode map 2 (0F38).
func evexMap2Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch context.prefix {
    case 1: return evexMap2With66(opcode, context)
    case 2: return evexMap2WithF3(opcode, context)
    case 3:
        switch opcode {
        case 0x68: return evex(.broadcast, .Kg, .Hx, .Wx)
        case 0x72: return evex([.w0, .mzb], .Vx, .Hx, .Wx)
        default: return .undefined
        }
    default: return .undefined
    }
}

private func evexMap2With66(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    let w = context.w
    switch opcode {
    // Three vectors, elements of bytes or words.
    case 0x00, 0x04, 0x0B, 0x38, 0x3A, 0x3C, 0x3E, 0x66, 0x75, 0x7D, 0x8D:
        return evex(.mz, .Vx, .Hx, .Wx)
    case 0x10, 0x11, 0x12, 0x70, 0x72: return evex([.w1, .mz], .Vx, .Hx, .Wx)
    case 0xCF: return evex([.w0, .mz], .Vx, .Hx, .Wx)
    // Three vectors, elements of 4 or 8 bytes.
    case 0x14, 0x15, 0x39, 0x3B, 0x3D, 0x3F, 0x40, 0x45, 0x46, 0x47, 0x64, 0x65, 0x71, 0x73,
        0x76, 0x77, 0x7E, 0x7F:
        return evex(.mzb, .Vx, .Hx, .Wx)
    case 0x0C, 0x2B, 0x50...0x53: return evex([.w0, .mzb], .Vx, .Hx, .Wx)
    case 0x0D, 0x28, 0x83, 0xB4, 0xB5: return evex([.w1, .mzb], .Vx, .Hx, .Wx)
    case 0x16, 0x36: return evex([.mzb, .l256up], .Vx, .Hx, .Wx)
    case 0xDC...0xDF: return evex([], .Vx, .Hx, .Wx)
    // Comparisons.
    case 0x26: return evex(.mask, .Kg, .Hx, .Wx)
    case 0x8F: return evex([.w0, .mask], .Kg, .Hx, .Wx)
    case 0x27: return evex(.mb, .Kg, .Hx, .Wx)
    case 0x29, 0x37: return evex([.w1, .mb], .Kg, .Hx, .Wx)
    // One source.
    case 0x1C, 0x1D, 0x54: return evex(.mz, .Vx, .Wx)
    case 0x1E: return evex([.w0, .mzb], .Vx, .Wx)
    case 0x1F: return evex([.w1, .mzb], .Vx, .Wx)
    case 0x44, 0x4C, 0x4E, 0x55, 0xC4: return evex(.mzb, .Vx, .Wx)
    case 0x42: return evex(.sae, .Vx, .Wx)
    case 0x13: return evex([.w0, .mz, .suppress], .Vx, .Wh)
    case 0x20, 0x23, 0x30, 0x33: return evex(.mz, .Vx, .Wh)
    case 0x25, 0x35: return evex([.w0, .mz], .Vx, .Wh)
    case 0x21, 0x24, 0x31, 0x34: return evex(.mz, .Vx, .Wf)
    case 0x22, 0x32: return evex(.mz, .Vx, .We)
    case 0x2A: return evex(.w0, .Vx, .Mx)
    // Scalars and scaling.
    case 0x2C: return evex(.er, .Vx, .Hx, .Wx)
    case 0x2D: return evex(.scalarER, .Vdq, .Hdq, w ? .Wq : .Wd)
    case 0x43: return evex(.scalarSAE, .Vdq, .Hdq, w ? .Wq : .Wd)
    case 0x4D, 0x4F: return evex(.scalar, .Vdq, .Hdq, w ? .Wq : .Wd)
    // Broadcasts.
    case 0x18, 0x58: return evex([.w0, .mz], .Vx, .Wd)
    case 0x19: return evex([.mz, .l256up], .Vx, .Wq)
    case 0x59: return evex(.mz, .Vx, .Wq)
    case 0x1A, 0x5A: return evex([.mz, .l256up], .Vx, .Mdq)
    case 0x1B, 0x5B: return evex([.mz, .l512], .Vx, .Mqq)
    case 0x78: return evex([.w0, .mz], .Vx, .Wb)
    case 0x79: return evex([.w0, .mz], .Vx, .Ww)
    case 0x7A, 0x7B: return evex([.w0, .mz], .Vx, .Rd)
    case 0x7C: return evex(.mz, .Vx, .Ry)
    // Expansion and compression.
    case 0x62: return evex([.mz, .smallElement], .Vx, .Wx)
    case 0x63: return evex([.mz, .smallElement], .Wx, .Vx)
    case 0x88, 0x89: return evex([.mz, .element], .Vx, .Wx)
    case 0x8A, 0x8B: return evex([.mz, .element], .Wx, .Vx)
    // Gathers and scatters.
    case 0x90, 0x92:
        return evex([.needsMask, .vectorIndex, .distinct], .Vx, w ? .MvsibQ : .MvsibD)
    case 0x91, 0x93:
        return w
            ? evex([.needsMask, .vectorIndex, .distinct], .Vx, .MvsibQ)
            : evex([.needsMask, .vectorIndex, .distinct], .Vh, .MvsibD)
    case 0xA0, 0xA2: return evex([.needsMask, .vectorIndex], w ? .MvsibQ : .MvsibD, .Vx)
    case 0xA1, 0xA3:
        return w
            ? evex([.needsMask, .vectorIndex], .MvsibQ, .Vx)
            : evex([.needsMask, .vectorIndex], .MvsibD, .Vh)
    // Fused multiplication and addition.
    case 0x99, 0x9B, 0x9D, 0x9F, 0xA9, 0xAB, 0xAD, 0xAF, 0xB9, 0xBB, 0xBD, 0xBF:
        return evex(.scalarER, .Vdq, .Hdq, w ? .Wq : .Wd)
    case 0x96...0x9E, 0xA6...0xAE, 0xB6...0xBE: return evex(.er, .Vx, .Hx, .Wx)
    default: return .undefined
    }
}

private func evexMap2WithF3(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch opcode {
    // Narrowing moves.
    case 0x10, 0x13, 0x15, 0x20, 0x23, 0x25, 0x30, 0x33, 0x35:
        return evex([.w0, .mz], .Wh, .Vx)
    case 0x11, 0x14, 0x21, 0x24, 0x31, 0x34: return evex([.w0, .mz], .Wf, .Vx)
    case 0x12, 0x22, 0x32: return evex([.w0, .mz], .We, .Vx)
    case 0x26: return evex(.mask, .Kg, .Hx, .Wx)
    case 0x27: return evex(.mb, .Kg, .Hx, .Wx)
    case 0x28, 0x38: return evex([], .Vx, .Kr)
    case 0x29, 0x39: return evex([], .Kg, .Ux)
    case 0x2A: return evex(.w1, .Vx, .Kr)
    case 0x3A: return evex(.w0, .Vx, .Kr)
    case 0x52: return evex([.w0, .mzb], .Vx, .Hx, .Wx)
    case 0x72: return evex([.w0, .mzb], .Vh, .Wx)
    default: return .undefined
    }
}

/// The EVEX opcode map 3 (0F3A).
func evexMap3Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    guard context.prefix == 1 else { return evexMap3HalfPrecision(opcode, context) }
    let w = context.w
    switch opcode {
    case 0x00, 0x01: return evex([.w1, .mzb, .l256up], .Vx, .Wx, .Ib)
    case 0x03, 0x25, 0x71, 0x73: return evex(.mzb, .Vx, .Hx, .Wx, .Ib)
    case 0x04: return evex([.w0, .mzb], .Vx, .Wx, .Ib)
    case 0x05: return evex([.w1, .mzb], .Vx, .Wx, .Ib)
    case 0x08: return evex([.w0, .sae], .Vx, .Wx, .Ib)
    case 0x09: return evex([.w1, .sae], .Vx, .Wx, .Ib)
    case 0x0A: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Wd, .Ib)
    case 0x0B: return evex([.w1, .scalarSAE], .Vdq, .Hdq, .Wq, .Ib)
    case 0x0F: return evex(.mz, .Vx, .Hx, .Wx, .Ib)
    case 0x14: return evex(.l128, .RdMb, .Vdq, .Ib)
    case 0x15: return evex(.l128, .RdMw, .Vdq, .Ib)
    case 0x16: return evex(.l128, .Ey, .Vdq, .Ib)
    case 0x17: return evex(.l128, .Ed, .Vdq, .Ib)
    case 0x18, 0x38: return evex([.mz, .l256up], .Vx, .Hx, .Wdq, .Ib)
    case 0x19, 0x39: return evex([.mz, .l256up], .Wdq, .Vx, .Ib)
    case 0x1A, 0x3A: return evex([.mz, .l512], .Vx, .Hx, .Wqq, .Ib)
    case 0x1B, 0x3B: return evex([.mz, .l512], .Wqq, .Vx, .Ib)
    case 0x1D: return evex([.w0, .mz, .suppress], .Wh, .Vx, .Ib)
    case 0x1E, 0x1F: return evex(.mb, .Kg, .Hx, .Wx, .Ib)
    case 0x20: return evex(.l128, .Vdq, .Hdq, .RdMb, .Ib)
    case 0x21: return evex([.w0, .l128], .Vdq, .Hdq, .Wd, .Ib)
    case 0x22: return evex(.l128, .Vdq, .Hdq, .Ey, .Ib)
    case 0x23, 0x43: return evex([.mzb, .l256up], .Vx, .Hx, .Wx, .Ib)
    case 0x26, 0x56: return evex(.sae, .Vx, .Wx, .Ib)
    case 0x27, 0x51, 0x55, 0x57: return evex(.scalarSAE, .Vdq, .Hdq, w ? .Wq : .Wd, .Ib)
    case 0x3E, 0x3F: return evex(.mask, .Kg, .Hx, .Wx, .Ib)
    case 0x42: return evex([.w0, .mz], .Vx, .Hx, .Wx, .Ib)
    case 0x44: return evex([], .Vx, .Hx, .Wx, .Ib)
    case 0x50, 0x54: return evex(.sae, .Vx, .Hx, .Wx, .Ib)
    case 0x66: return evex(.mb, .Kg, .Wx, .Ib)
    case 0x67: return evex([.lig, .mask], .Kg, w ? .Wq : .Wd, .Ib)
    case 0x70, 0x72: return evex([.w1, .mz], .Vx, .Hx, .Wx, .Ib)
    case 0xCE, 0xCF: return evex([.w1, .mzb], .Vx, .Hx, .Wx, .Ib)
    default: return .undefined
    }
}

/// AVX512-FP16 in map 3.
private func evexMap3HalfPrecision(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x008, 0x026, 0x056: return evex([.w0, .sae16], .Vx, .Wx, .Ib)
    case 0x00A, 0x027, 0x057: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Ww, .Ib)
    case 0x066: return evex([.w0, .mask, .broadcast16], .Kg, .Wx, .Ib)
    case 0x067: return evex([.w0, .lig, .mask], .Kg, .Ww, .Ib)
    case 0x0C2: return evex([.w0, .mask, .broadcast16, .suppress], .Kg, .Hx, .Wx, .Ib)
    case 0x2C2: return evex([.w0, .lig, .mask, .suppress], .Kg, .Hdq, .Ww, .Ib)
    default: return .undefined
    }
}

/// The EVEX opcode map 5: AVX512-FP16's counterparts of map 1.
func evexMap5Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    let w = context.w
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x210, 0x211: return group(.evexMoveScalarHalf)
    case 0x16E: return evex(.l128, .Vdq, .RdMw)
    case 0x17E: return evex(.l128, .RdMw, .Vdq)
    case 0x01D: return evex([.w0, .scalarER], .Vdq, .Hdq, .Wd)
    case 0x11D: return evex([.w0, .er], .Vh, .Wx)
    case 0x22A, 0x27B: return evex([.lig, .rounding], .Vdq, .Hdq, .Ey)
    case 0x22C, 0x278: return evex([.lig, .suppress], .Gy, .Ww)
    case 0x22D, 0x279: return evex([.lig, .rounding], .Gy, .Ww)
    case 0x02E, 0x02F: return evex([.w0, .lig, .suppress], .Vdq, .Ww)
    case 0x051: return evex([.w0, .er16], .Vx, .Wx)
    case 0x058, 0x059, 0x05C, 0x05E: return evex([.w0, .er16], .Vx, .Hx, .Wx)
    case 0x05D, 0x05F: return evex([.w0, .sae16], .Vx, .Hx, .Wx)
    case 0x251, 0x258, 0x259, 0x25C, 0x25E: return evex([.w0, .scalarER], .Vdq, .Hdq, .Ww)
    case 0x25D, 0x25F: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Ww)
    case 0x05A: return evex([.w0, .sae16], .Vx, .Wf)
    case 0x15A: return evex([.w1, .er], .Vf, .Wx)
    case 0x25A: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Ww)
    case 0x35A: return evex([.w1, .scalarER], .Vdq, .Hdq, .Wq)
    case 0x05B, 0x37A: return w ? evex(.er, .Vf, .Wx) : evex(.er, .Vh, .Wx)
    case 0x15B, 0x079: return evex([.w0, .er16], .Vx, .Wh)
    case 0x25B, 0x078: return evex([.w0, .sae16], .Vx, .Wh)
    case 0x178, 0x17A: return evex([.w0, .sae16], .Vx, .Wf)
    case 0x179, 0x17B: return evex([.w0, .er16], .Vx, .Wf)
    case 0x07C, 0x17C: return evex([.w0, .sae16], .Vx, .Wx)
    case 0x07D, 0x17D, 0x27D, 0x37D: return evex([.w0, .er16], .Vx, .Wx)
    default: return .undefined
    }
}

/// The EVEX opcode map 6: AVX512-FP16's counterparts of map 2.
func evexMap6Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x013: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Ww)
    case 0x113: return evex([.w0, .sae16], .Vx, .Wh)
    case 0x12C: return evex([.w0, .er16], .Vx, .Hx, .Wx)
    case 0x12D: return evex([.w0, .scalarER], .Vdq, .Hdq, .Ww)
    case 0x142: return evex([.w0, .sae16], .Vx, .Wx)
    case 0x143: return evex([.w0, .scalarSAE], .Vdq, .Hdq, .Ww)
    case 0x14C, 0x14E: return evex([.w0, .mzb16], .Vx, .Wx)
    case 0x14D, 0x14F: return evex([.w0, .scalar], .Vdq, .Hdq, .Ww)
    // Complex numbers: pairs of half precision, broadcast by four bytes.
    case 0x256, 0x356, 0x2D6, 0x3D6: return evex([.w0, .er, .distinct], .Vx, .Hx, .Wx)
    case 0x257, 0x357, 0x2D7, 0x3D7: return evex([.w0, .scalarER, .distinct], .Vdq, .Hdq, .Wd)
    case 0x199, 0x19B, 0x19D, 0x19F, 0x1A9, 0x1AB, 0x1AD, 0x1AF, 0x1B9, 0x1BB, 0x1BD, 0x1BF:
        return evex([.w0, .scalarER], .Vdq, .Hdq, .Ww)
    case 0x196...0x19E, 0x1A6...0x1AE, 0x1B6...0x1BE: return evex([.w0, .er16], .Vx, .Hx, .Wx)
    default: return .undefined
    }
}
