extension CPU {
    /// Shifts or rotates by a count that is already masked to 5 or 6 bits, and sets the flags.
    /// AF after shifts is documented as undefined and left clear; OF after counts other than 1 is
    /// computed as for 1.
    @inline(__always)
    func shift<T: OperandWord>(_ operation: ShiftOperation, _ value: T, by count: UInt8) -> T {
        if count == 0 { return value }
        let bits = UInt8(T.bitWidth)
        switch operation {
        case .shl, .sal:
            let amount = T(truncatingIfNeeded: count)
            let result: T = T.bitWidth >= 32 || count < bits ? value &<< amount : 0
            let out = value &>> (T(truncatingIfNeeded: bits) &- amount)
            let carry = (T.bitWidth >= 32 || count <= bits) && out & 1 != 0
            setFlags(result, carry: carry, overflow: carry != isNegative(result), adjust: false)
            return result
        case .shr:
            let amount = T(truncatingIfNeeded: count)
            let result: T = T.bitWidth >= 32 || count < bits ? value &>> amount : 0
            let out = value &>> (amount &- 1)
            let carry = (T.bitWidth >= 32 || count <= bits) && out & 1 != 0
            setFlags(result, carry: carry, overflow: isNegative(value), adjust: false)
            return result
        case .sar:
            let wide = Int64(bitPattern: signExtended(value))
            let result = T(truncatingIfNeeded: wide &>> Int64(min(count, 63)))
            let carry = (wide &>> Int64(count &- 1)) & 1 != 0
            setFlags(result, carry: carry, overflow: false, adjust: false)
            return result
        case .rol:
            let result = rotatedLeft(value, by: count & (bits &- 1))
            let carry = result & 1 != 0
            setCarry(carry, overflow: carry != isNegative(result))
            return result
        case .ror:
            let result = rotatedLeft(value, by: (bits &- count) & (bits &- 1))
            setCarry(
                isNegative(result), overflow: isNegative(result) != isNegative(result &<< 1))
            return result
        case .rcl: return rotateThroughCarry(value, left: count)
        case .rcr: return rotateThroughCarry(value, right: count)
        }
    }

    @inline(__always)
    func isNegative<T: OperandWord>(_ value: T) -> Bool {
        value &>> T(truncatingIfNeeded: T.bitWidth &- 1) != 0
    }

    @inline(__always)
    func rotatedLeft<T: OperandWord>(_ value: T, by count: UInt8) -> T {
        (value &<< T(truncatingIfNeeded: count))
            | (value &>> (T(truncatingIfNeeded: T.bitWidth) &- T(truncatingIfNeeded: count)))
    }

    func rotateThroughCarry<T: OperandWord>(_ value: T, left count: UInt8) -> T {
        let steps = T.bitWidth < 32 ? Int(count) % (T.bitWidth + 1) : Int(count)
        var result = value
        var carry = carryFlag
        for _ in 0..<steps {
            let out = isNegative(result)
            result = (result &<< 1) | (carry ? 1 : 0)
            carry = out
        }
        if steps != 0 { setCarry(carry, overflow: carry != isNegative(result)) }
        return result
    }

    func rotateThroughCarry<T: OperandWord>(_ value: T, right count: UInt8) -> T {
        let steps = T.bitWidth < 32 ? Int(count) % (T.bitWidth + 1) : Int(count)
        let top = T(1) &<< T(truncatingIfNeeded: T.bitWidth &- 1)
        var result = value
        var carry = carryFlag
        for _ in 0..<steps {
            let out = result & 1 != 0
            result = (result &>> 1) | (carry ? top : 0)
            carry = out
        }
        if steps != 0 {
            setCarry(carry, overflow: isNegative(result) != isNegative(result &<< 1))
        }
        return result
    }

    @inline(__always)
    func shiftRI<T: OperandWord>(_ op: OperationPointer, _ operation: ShiftOperation, _: T.Type) {
        let count = UInt8(truncatingIfNeeded: op.immediate)
        setRegister(
            op.destination, shift(operation, register(op.destination, as: T.self), by: count))
    }

    @inline(__always)
    func shiftRC<T: OperandWord>(_ op: OperationPointer, _ operation: ShiftOperation, _: T.Type) {
        let count = register(Register.cl, as: UInt8.self) & shiftCountMask(T.self)
        setRegister(
            op.destination, shift(operation, register(op.destination, as: T.self), by: count))
    }

    @inline(__always)
    func shiftCountMask<T: OperandWord>(_: T.Type) -> UInt8 { T.bitWidth == 64 ? 63 : 31 }

    /// Any shift or rotation: the operation is in `source`, the count an immediate or CL.
    func generalShift<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let operation = ShiftOperation(rawValue: op.source & 7) ?? .shl
        let count =
            (op.form.contains(.immediateSource)
                ? UInt8(truncatingIfNeeded: op.immediate) : register(Register.cl, as: UInt8.self))
            & shiftCountMask(T.self)
        try modifyDestination(op, T.self) { shift(operation, $0, by: count) }
    }

    /// SHLD and SHRD. Counts above the operand size (16-bit operands only) are undefined; the
    /// result then is what shifting the three words `destination:source:destination` gives.
    func doubleShift<T: OperandWord>(
        _ op: OperationPointer, left: Bool, _: T.Type
    ) throws(Fault) {
        let count =
            (op.form.contains(.immediateSource)
                ? UInt8(truncatingIfNeeded: op.immediate) : register(Register.cl, as: UInt8.self))
            & shiftCountMask(T.self)
        let filler = register(op.source, as: T.self)
        try modifyDestination(op, T.self) { value in
            if count == 0 { return value }
            var result = value
            var carry = false
            for step in 0..<Int(count) {
                let from = step < T.bitWidth ? filler : value
                let bit = T(truncatingIfNeeded: step % T.bitWidth)
                if left {
                    carry = isNegative(result)
                    result = (result &<< 1) | (isNegative(from &<< bit) ? 1 : 0)
                } else {
                    carry = result & 1 != 0
                    result =
                        (result &>> 1)
                        | (((from &>> bit) & 1) &<< T(truncatingIfNeeded: T.bitWidth &- 1))
                }
            }
            setFlags(
                result, carry: carry, overflow: isNegative(value) != isNegative(result),
                adjust: false)
            return result
        }
    }
}
