/// The VEX opcode map 1 (0F).
func vexMap1Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    // Moves.
    case 0x010, 0x110, 0x028, 0x128, 0x16F, 0x26F, 0x212, 0x216: return vex(.avx, [], .Vx, .Wx)
    case 0x011, 0x111, 0x029, 0x129, 0x17F, 0x27F: return vex(.avx, [], .Wx, .Vx)
    case 0x210, 0x211: return group(.vexMoveScalarSingle)
    case 0x310, 0x311: return group(.vexMoveScalarDouble)
    case 0x012, 0x016: return group(.vexMoveLow)
    case 0x112, 0x116: return vex(.avx, .l128, .Vdq, .Hdq, .Mq)
    case 0x312: return vex(.avx, [], .Vx, .Wdup)
    case 0x013, 0x113, 0x017, 0x117: return vex(.avx, .l128, .Mq, .Vdq)
    case 0x02B, 0x12B, 0x1E7: return vex(.avx, [], .Mx, .Vx)
    case 0x050, 0x150: return vex(.avx, [], .Gd, .Ux)
    case 0x1D7: return vex(.avx, .integer, .Gd, .Ux)
    case 0x16E: return vex(.avx, .l128, .Vdq, .Ey)
    case 0x17E: return vex(.avx, .l128, .Ey, .Vdq)
    case 0x27E: return vex(.avx, .l128, .Vdq, .Wq)
    case 0x1D6: return vex(.avx, .l128, .Wq, .Vdq)
    case 0x3F0: return vex(.avx, [], .Vx, .Mx)
    case 0x1F7: return vex(.avx, .l128, .Vdq, .Udq)
    case 0x1C4: return vex(.avx, .l128, .Vdq, .Hdq, .RdMw, .Ib)
    case 0x1C5: return vex(.avx, .l128, .Gd, .Udq, .Ib)

    // Conversions and comparisons.
    case 0x22A, 0x32A: return vex(.avx, .lig, .Vdq, .Hdq, .Ey)
    case 0x22C, 0x22D: return vex(.avx, .lig, .Gy, .Wd)
    case 0x32C, 0x32D: return vex(.avx, .lig, .Gy, .Wq)
    case 0x02E, 0x02F: return vex(.avx, .lig, .Vdq, .Wd)
    case 0x12E, 0x12F: return vex(.avx, .lig, .Vdq, .Wq)
    case 0x05A, 0x2E6: return vex(.avx, [], .Vx, .Wh)
    case 0x15A, 0x1E6, 0x3E6: return vex(.avx, [], .Vh, .Wx)
    case 0x05B, 0x15B, 0x25B: return vex(.avx, [], .Vx, .Wx)
    case 0x0C2, 0x1C2, 0x0C6, 0x1C6: return vex(.avx, [], .Vx, .Hx, .Wx, .Ib)
    case 0x2C2: return vex(.avx, .lig, .Vdq, .Hdq, .Wd, .Ib)
    case 0x3C2: return vex(.avx, .lig, .Vdq, .Hdq, .Wq, .Ib)

    // Floating-point arithmetic.
    case 0x051, 0x151, 0x052, 0x053: return vex(.avx, [], .Vx, .Wx)
    case 0x014, 0x114, 0x015, 0x115, 0x054...0x059, 0x154...0x159, 0x05C...0x05F,
        0x15C...0x15F, 0x17C, 0x37C, 0x17D, 0x37D, 0x1D0, 0x3D0:
        return vex(.avx, [], .Vx, .Hx, .Wx)
    case 0x251, 0x252, 0x253, 0x258, 0x259, 0x25A, 0x25C...0x25F:
        return vex(.avx, .lig, .Vdq, .Hdq, .Wd)
    case 0x351, 0x358, 0x359, 0x35A, 0x35C...0x35F: return vex(.avx, .lig, .Vdq, .Hdq, .Wq)

    // Integers.
    case 0x1D1...0x1D3, 0x1E1, 0x1E2, 0x1F1...0x1F3: return vex(.avx, .integer, .Vx, .Hx, .Wdq)
    case 0x160...0x16D, 0x174...0x176, 0x1D4, 0x1D5, 0x1D8...0x1DF, 0x1E0, 0x1E3...0x1E5,
        0x1E8...0x1EF, 0x1F4...0x1F6, 0x1F8...0x1FE:
        return vex(.avx, .integer, .Vx, .Hx, .Wx)
    case 0x170, 0x270, 0x370: return vex(.avx, .integer, .Vx, .Wx, .Ib)
    case 0x171: return group(.vexGroup12)
    case 0x172: return group(.vexGroup13)
    case 0x173: return group(.vexGroup14)
    case 0x077: return vex(.avx, [])
    case 0x0AE: return group(.vexGroup15)
    default: return vexMaskEntry(opcode, context)
    }
}

/// Operations on mask registers, in map 1.
private func vexMaskEntry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch (opcode, context.prefix) {
    case (0x41, 0...1), (0x42, 0...1), (0x45...0x47, 0...1), (0x4A, 0...1):
        return vex(.avx512, .l256, .Kg, .Kv, .Kr)
    case (0x4B, 0): return vex(.avx512, .l256, .Kg, .Kv, .Kr)
    case (0x4B, 1): return vex(.avx512, [.l256, .w0], .Kg, .Kv, .Kr)
    case (0x44, 0...1), (0x98, 0...1), (0x99, 0...1): return vex(.avx512, .l128, .Kg, .Kr)
    case (0x90, 0): return vex(.avx512, .l128, .Kg, context.w ? .KrMq : .KrMw)
    case (0x90, 1): return vex(.avx512, .l128, .Kg, context.w ? .KrMd : .KrMb)
    case (0x91, 0): return vex(.avx512, .l128, context.w ? .Mq : .Mw, .Kg)
    case (0x91, 1): return vex(.avx512, .l128, context.w ? .Md : .Mb, .Kg)
    case (0x92, 0...1): return vex(.avx512, [.l128, .w0], .Kg, .Rd)
    case (0x92, 3): return vex(.avx512, .l128, .Kg, .Ry)
    case (0x93, 0...1): return vex(.avx512, [.l128, .w0], .Gd, .Kr)
    case (0x93, 3): return vex(.avx512, .l128, .Gy, .Kr)
    default: return .undefined
    }
}

/// The VEX opcode map 2 (0F38).
func vexMap2Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    switch UInt16(context.prefix) << 8 | UInt16(opcode) {
    case 0x100...0x10B, 0x128, 0x129, 0x12B, 0x137...0x140:
        return vex(.avx, .integer, .Vx, .Hx, .Wx)
    case 0x10C, 0x10D: return vex(.avx, .w0, .Vx, .Hx, .Wx)
    case 0x10E, 0x10F: return vex(.avx, .w0, .Vx, .Wx)
    case 0x113: return vex(.f16c, .w0, .Vx, .Wh)
    case 0x116, 0x136: return vex(.avx2, [.w0, .l256], .Vx, .Hx, .Wx)
    case 0x117: return vex(.avx, [], .Vx, .Wx)
    case 0x118: return vex(.avx, .w0, .Vx, .Wd)
    case 0x119: return vex(.avx, [.w0, .l256], .Vx, .Wq)
    case 0x11A: return vex(.avx, [.w0, .l256], .Vx, .Mdq)
    case 0x11C...0x11E: return vex(.avx, .integer, .Vx, .Wx)
    case 0x120, 0x123, 0x125, 0x130, 0x133, 0x135: return vex(.avx, .integer, .Vx, .Wh)
    case 0x121, 0x124, 0x131, 0x134: return vex(.avx, .integer, .Vx, .Wf)
    case 0x122, 0x132: return vex(.avx, .integer, .Vx, .We)
    case 0x12A: return vex(.avx, .integer, .Vx, .Mx)
    case 0x12C, 0x12D: return vex(.avx, .w0, .Vx, .Hx, .Mx)
    case 0x12E, 0x12F: return vex(.avx, .w0, .Mx, .Hx, .Vx)
    case 0x141: return vex(.avx, .l128, .Vdq, .Wdq)
    case 0x145, 0x147: return vex(.avx2, [], .Vx, .Hx, .Wx)
    case 0x146: return vex(.avx2, .w0, .Vx, .Hx, .Wx)
    case 0x150...0x153: return vex(.avxVNNI, .w0, .Vx, .Hx, .Wx)
    case 0x158: return vex(.avx2, .w0, .Vx, .Wd)
    case 0x159: return vex(.avx2, .w0, .Vx, .Wq)
    case 0x15A: return vex(.avx2, [.w0, .l256], .Vx, .Mdq)
    case 0x178: return vex(.avx2, .w0, .Vx, .Wb)
    case 0x179: return vex(.avx2, .w0, .Vx, .Ww)
    case 0x18C: return vex(.avx2, [], .Vx, .Hx, .Mx)
    case 0x18E: return vex(.avx2, [], .Mx, .Hx, .Vx)

    // Gathers: the vector length is the index's where indices are the longer ones.
    case 0x190, 0x192:
        return vex(.avx2, [.vectorIndex, .distinct], .Vx, context.w ? .MvsibQ : .MvsibD, .Hx)
    case 0x191, 0x193:
        return context.w
            ? vex(.avx2, [.vectorIndex, .distinct], .Vx, .MvsibQ, .Hx)
            : vex(.avx2, [.vectorIndex, .distinct], .Vdq, .MvsibD, .Hdq)

    // Fused multiplication and addition: odd opcodes from 99, A9, B9 are scalar.
    case 0x199, 0x19B, 0x19D, 0x19F, 0x1A9, 0x1AB, 0x1AD, 0x1AF, 0x1B9, 0x1BB, 0x1BD, 0x1BF:
        return vex(.fma, .lig, .Vdq, .Hdq, context.w ? .Wq : .Wd)
    case 0x196...0x19E, 0x1A6...0x1AE, 0x1B6...0x1BE: return vex(.fma, [], .Vx, .Hx, .Wx)

    // Tiles.
    case 0x049, 0x149, 0x349: return group(.vexTiles)
    case 0x14B, 0x34B: return vex(.amx, [.w0, .l128, .only64], .Tg, .Mtile)
    case 0x24B: return vex(.amx, [.w0, .l128, .only64], .Mtile, .Tg)
    case 0x25C, 0x05E, 0x15E, 0x25E, 0x35E:
        return vex(.amx, [.w0, .l128, .only64, .distinct], .Tg, .Tr, .Tv)

    case 0x1CF: return vex(.gfni, .w0, .Vx, .Hx, .Wx)
    case 0x1DB: return vex(.aes, .l128, .Vdq, .Wdq)
    case 0x1DC...0x1DF: return vex(.vaes, [], .Vx, .Hx, .Wx)

    case 0x0F2: return vex(.andn, .bmi1, .Gy, .By, .Ey)
    case 0x0F3: return group(.vexGroup17)
    case 0x0F5: return vex(.bzhi, .bmi2, .Gy, .Ey, .By)
    case 0x2F5: return vex(.pext, .bmi2, .Gy, .By, .Ey)
    case 0x3F5: return vex(.pdep, .bmi2, .Gy, .By, .Ey)
    case 0x3F6: return vex(.mulx, .bmi2, .Gy, .By, .Ey)
    case 0x0F7: return vex(.bextr, .bmi1, .Gy, .Ey, .By)
    case 0x1F7: return vex(.shlx, .bmi2, .Gy, .Ey, .By)
    case 0x2F7: return vex(.sarx, .bmi2, .Gy, .Ey, .By)
    case 0x3F7: return vex(.shrx, .bmi2, .Gy, .Ey, .By)
    default: return .undefined
    }
}

/// The VEX opcode map 3 (0F3A).
func vexMap3Entry(_ opcode: UInt8, _ context: EntryContext) -> TableEntry {
    if context.prefix == 3 {
        return opcode == 0xF0 ? vex(.rorx, .bmi2, .Gy, .Ey, .Ib) : .undefined
    }
    guard context.prefix == 1 else { return .undefined }
    switch opcode {
    case 0x00, 0x01: return vex(.avx2, [.w1, .l256], .Vx, .Wx, .Ib)
    case 0x02: return vex(.avx2, .w0, .Vx, .Hx, .Wx, .Ib)
    case 0x04, 0x05: return vex(.avx, .w0, .Vx, .Wx, .Ib)
    case 0x06: return vex(.avx, [.w0, .l256], .Vx, .Hx, .Wx, .Ib)
    case 0x08, 0x09: return vex(.avx, [], .Vx, .Wx, .Ib)
    case 0x0A: return vex(.avx, .lig, .Vdq, .Hdq, .Wd, .Ib)
    case 0x0B: return vex(.avx, .lig, .Vdq, .Hdq, .Wq, .Ib)
    case 0x0C, 0x0D, 0x40: return vex(.avx, [], .Vx, .Hx, .Wx, .Ib)
    case 0x0E, 0x0F, 0x42: return vex(.avx, .integer, .Vx, .Hx, .Wx, .Ib)
    case 0x14: return vex(.avx, .l128, .RdMb, .Vdq, .Ib)
    case 0x15: return vex(.avx, .l128, .RdMw, .Vdq, .Ib)
    case 0x16: return vex(.avx, .l128, .Ey, .Vdq, .Ib)
    case 0x17: return vex(.avx, .l128, .Ed, .Vdq, .Ib)
    case 0x18: return vex(.avx, [.w0, .l256], .Vx, .Hx, .Wdq, .Ib)
    case 0x19: return vex(.avx, [.w0, .l256], .Wdq, .Vx, .Ib)
    case 0x1D: return vex(.f16c, .w0, .Wh, .Vx, .Ib)
    case 0x20: return vex(.avx, .l128, .Vdq, .Hdq, .RdMb, .Ib)
    case 0x21: return vex(.avx, .l128, .Vdq, .Hdq, .Wd, .Ib)
    case 0x22: return vex(.avx, .l128, .Vdq, .Hdq, .Ey, .Ib)
    case 0x30...0x33: return vex(.avx512, .l128, .Kg, .Kr, .Ib)
    case 0x38: return vex(.avx2, [.w0, .l256], .Vx, .Hx, .Wdq, .Ib)
    case 0x39: return vex(.avx2, [.w0, .l256], .Wdq, .Vx, .Ib)
    case 0x41: return vex(.avx, .l128, .Vdq, .Hdq, .Wdq, .Ib)
    case 0x44: return vex(.vpclmulqdq, [], .Vx, .Hx, .Wx, .Ib)
    case 0x46: return vex(.avx2, [.w0, .l256], .Vx, .Hx, .Wx, .Ib)
    case 0x4A, 0x4B: return vex(.avx, .w0, .Vx, .Hx, .Wx, .Lx)
    case 0x4C: return vex(.avx, [.w0, .integer], .Vx, .Hx, .Wx, .Lx)
    case 0x60...0x63: return vex(.avx, .l128, .Vdq, .Wdq, .Ib)
    case 0xCE, 0xCF: return vex(.gfni, .w1, .Vx, .Hx, .Wx, .Ib)
    case 0xDF: return vex(.aes, .l128, .Vdq, .Wdq, .Ib)
    default: return .undefined
    }
}
