// How results become lazy flags; the form is described in LazyFlags.swift.

// SAFETY: `state` is valid (see CPU).
extension CPU {
    @inline(__always)
    func setFlagWords<T: OperandWord>(_ result: T, aux: UInt64) {
        unsafe state.pointee.flagResult = signExtended(result)
        unsafe state.pointee.flagAux = aux
    }

    @inline(__always)
    func signExtended<T: OperandWord>(_ value: T) -> UInt64 {
        let shift = UInt64(64 &- T.bitWidth)
        let moved = Int64(bitPattern: UInt64(truncatingIfNeeded: value) &<< shift)
        return UInt64(bitPattern: moved &>> Int64(shift))
    }

    /// `carries`: the carry (or borrow) out of every bit position.
    @inline(__always)
    func setFlags<T: OperandWord>(_ result: T, carries: T) {
        let wide = UInt64(truncatingIfNeeded: carries)
        let aux =
            ((wide &<< UInt64(64 &- T.bitWidth)) & (FlagAux.carry | FlagAux.partial))
            | (wide & FlagAux.adjust)
        setFlagWords(result, aux: aux)
    }

    /// After AND, OR, XOR and TEST.
    @inline(__always)
    func setLogicFlags<T: OperandWord>(_ result: T) { setFlagWords(result, aux: 0) }

    @inline(__always)
    func setFlags<T: OperandWord>(_ result: T, carry: Bool, overflow: Bool, adjust: Bool) {
        setFlagWords(result, aux: auxWord(carry: carry, overflow: overflow, adjust: adjust))
    }

    @inline(__always)
    func auxWord(carry: Bool, overflow: Bool, adjust: Bool) -> UInt64 {
        let c: UInt64 = carry ? FlagAux.carry | FlagAux.partial : 0
        let o: UInt64 = overflow ? FlagAux.partial : 0
        return (c ^ o) | (adjust ? FlagAux.adjust : 0)
    }

    /// Changes CF alone.
    @inline(__always)
    func setCarry(_ carry: Bool) { setCarry(carry, overflow: overflowFlag) }

    /// Changes CF and OF alone.
    @inline(__always)
    func setCarry(_ carry: Bool, overflow: Bool) {
        let kept = unsafe state.pointee.flagAux & ~(FlagAux.carry | FlagAux.partial)
        unsafe state.pointee.flagAux =
            kept | auxWord(carry: carry, overflow: overflow, adjust: false)
    }

    /// Changes ZF alone.
    func setZero(_ zero: Bool) {
        setArithmeticFlags(arithmeticFlags & ~RFLAGS.zf | (zero ? RFLAGS.zf : 0))
    }

    @inline(__always)
    func condition(_ condition: Condition) -> Bool {
        switch condition {
        case .o: overflowFlag
        case .no: !overflowFlag
        case .b: carryFlag
        case .ae: !carryFlag
        case .e: zeroFlag
        case .ne: !zeroFlag
        case .be: carryFlag || zeroFlag
        case .a: !(carryFlag || zeroFlag)
        case .s: signFlag
        case .ns: !signFlag
        case .p: parityFlag
        case .np: !parityFlag
        case .l: signFlag != overflowFlag
        case .ge: signFlag == overflowFlag
        case .le: zeroFlag || signFlag != overflowFlag
        case .g: !(zeroFlag || signFlag != overflowFlag)
        }
    }
}
