// Arithmetic flags are computed when somebody looks, from two words that every flag-setting
// instruction stores. The form is the same whatever the instruction was, so that looking needs no
// dispatch:
//
//     flagResult   the result, sign-extended to 64 bits: ZF is "== 0", SF its sign, PF the parity
//                  of its low byte
//     flagAux      bit 63 CF
//                  bit 62 CF xor OF (so OF is bit 63 xor bit 62)
//                  bit  3 AF
//                  bit  0 SF is the opposite of flagResult's sign
//                  bits 8-15: exclusive-ored with flagResult's low byte before taking its parity
//
// For an addition or subtraction the carry-out of every bit position, shifted so that the top bit
// of the operand arrives at bit 63, is flagAux but for AF. Flags that come from elsewhere (POPF,
// SAHF) are put into the same form by `setArithmeticFlags`. The idea is Bochs's.

enum FlagAux {
    static let carry: UInt64 = 1 << 63
    /// The carry into the sign position.
    static let partial: UInt64 = 1 << 62
    static let adjust: UInt64 = 1 << 3
    static let signDelta: UInt64 = 1 << 0
    static let parityShift: UInt64 = 8
}

// SAFETY for the whole file: `state` is valid for as long as the CPU is in use (CPU.swift).
extension CPU {
    @inline(__always)
    var carryFlag: Bool { unsafe state.pointee.flagAux >> 63 != 0 }

    @inline(__always)
    var overflowFlag: Bool {
        let aux = unsafe state.pointee.flagAux
        return (aux ^ (aux << 1)) >> 63 != 0
    }

    @inline(__always)
    var zeroFlag: Bool { unsafe state.pointee.flagResult == 0 }

    @inline(__always)
    var signFlag: Bool {
        unsafe (state.pointee.flagResult >> 63) ^ (state.pointee.flagAux & 1) != 0
    }

    @inline(__always)
    var parityFlag: Bool {
        let byte = unsafe UInt8(
            truncatingIfNeeded: state.pointee.flagResult
                ^ (state.pointee.flagAux >> FlagAux.parityShift))
        return byte.nonzeroBitCount & 1 == 0
    }

    @inline(__always)
    var adjustFlag: Bool { unsafe state.pointee.flagAux & FlagAux.adjust != 0 }

    /// CF, PF, AF, ZF, SF and OF at their places in RFLAGS.
    var arithmeticFlags: UInt64 {
        var flags: UInt64 = 0
        if carryFlag { flags |= RFLAGS.cf }
        if parityFlag { flags |= RFLAGS.pf }
        if adjustFlag { flags |= RFLAGS.af }
        if zeroFlag { flags |= RFLAGS.zf }
        if signFlag { flags |= RFLAGS.sf }
        if overflowFlag { flags |= RFLAGS.of }
        return flags
    }

    /// Sets the six arithmetic flags from their places in RFLAGS.
    func setArithmeticFlags(_ flags: UInt64) {
        let carry = flags & RFLAGS.cf
        let partial = carry ^ ((flags >> 11) & 1)
        var aux = carry << 63 | partial << 62
        if flags & RFLAGS.af != 0 { aux |= FlagAux.adjust }
        if flags & RFLAGS.pf == 0 { aux |= 1 << FlagAux.parityShift }
        // The result is zero or positive with an even low byte; the deltas say the rest.
        if flags & RFLAGS.sf != 0 { aux |= FlagAux.signDelta }
        unsafe state.pointee.flagResult = flags & RFLAGS.zf != 0 ? 0 : 0x100
        unsafe state.pointee.flagAux = aux
    }

    /// All of RFLAGS.
    var rflags: UInt64 { unsafe state.pointee.systemFlags | arithmeticFlags }
}
