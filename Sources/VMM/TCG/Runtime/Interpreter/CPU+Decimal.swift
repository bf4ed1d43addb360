// Decimal adjustments; they exist outside 64-bit mode only (SDM volume 2). What is undefined of
// the flags is computed from AL where other instructions would.

extension CPU {
    private var al: UInt8 {
        get { register(Register.al, as: UInt8.self) }
        nonmutating set { setRegister(Register.al, newValue) }
    }
    private var ah: UInt8 {
        get { register(Register.ah, as: UInt8.self) }
        nonmutating set { setRegister(Register.ah, newValue) }
    }

    func decimalAdjust(subtracting: Bool) {
        let old = al
        let oldCarry = carryFlag
        var carry = false
        var adjust = false
        if old & 15 > 9 || adjustFlag {
            al = subtracting ? al &- 6 : al &+ 6
            carry = oldCarry || (subtracting ? old < 6 : old > 0xF9)
            adjust = true
        }
        if old > 0x99 || oldCarry {
            al = subtracting ? al &- 0x60 : al &+ 0x60
            carry = true
        }
        setFlags(al, carry: carry, overflow: false, adjust: adjust)
    }

    func asciiAdjust(subtracting: Bool) {
        let adjust = al & 15 > 9 || adjustFlag
        if adjust {
            let ax = register(Register.rax, as: UInt16.self)
            setRegister(Register.rax, subtracting ? ax &- 6 : ax &+ 6)
            ah = subtracting ? ah &- 1 : ah &+ 1
        }
        al = al & 15
        setFlags(al, carry: adjust, overflow: false, adjust: adjust)
    }

    func asciiAdjustBeforeDivision(base: UInt8) {
        al = al &+ ah &* base
        ah = 0
        setLogicFlags(al)
    }

    func asciiAdjustAfterMultiplication(base: UInt8) throws(Fault) {
        guard base != 0 else { throw .divideError }
        let value = al
        ah = value / base
        al = value % base
        setLogicFlags(al)
    }
}
