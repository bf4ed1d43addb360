// Multiplication and division. MUL and IMUL define CF and OF alone, DIV and IDIV no flag.

extension CPU {
    /// IMUL with two or three operands.
    @inline(__always)
    func multiplySigned<T: OperandWord>(_ a: T, _ b: T) -> T {
        let x = Int64(bitPattern: signExtended(a))
        let y = Int64(bitPattern: signExtended(b))
        if T.bitWidth == 64 {
            let (product, overflow) = x.multipliedReportingOverflow(by: y)
            setMultiplyFlags(overflow)
            return T(truncatingIfNeeded: product)
        }
        let product = x &* y
        let result = T(truncatingIfNeeded: product)
        setMultiplyFlags(Int64(bitPattern: signExtended(result)) != product)
        return result
    }

    @inline(__always)
    func multiplyRR<T: OperandWord>(_ op: OperationPointer, _: T.Type) {
        let a = register(op.destination, as: T.self)
        setRegister(op.destination, multiplySigned(a, register(op.source, as: T.self)))
    }

    @inline(__always)
    func multiplyRM<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let b = try loadOperand(op, as: T.self)
        setRegister(op.destination, multiplySigned(register(op.destination, as: T.self), b))
    }

    @inline(__always)
    func multiplyRRI<T: OperandWord>(_ op: OperationPointer, _: T.Type) {
        let a = register(op.source, as: T.self)
        setRegister(op.destination, multiplySigned(a, T(truncatingIfNeeded: op.immediate)))
    }

    @inline(__always)
    func multiplyRMI<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let a = try loadOperand(op, as: T.self)
        setRegister(op.destination, multiplySigned(a, T(truncatingIfNeeded: op.immediate)))
    }

    @inline(__always)
    func setMultiplyFlags(_ overflow: Bool) { setCarry(overflow, overflow: overflow) }

    /// MUL with RDX:RAX or EDX:EAX.
    @inline(__always)
    func multiplyUnsigned<T: OperandWord>(_ b: T) {
        let a = register(Register.rax, as: T.self)
        let (high, low) = a.multipliedFullWidth(by: b)
        setRegister(Register.rax, T(truncatingIfNeeded: low))
        setRegister(Register.rdx, high)
        setMultiplyFlags(high != 0)
    }

    /// MUL and IMUL with one operand, any size. The operand is the source.
    func multiplyWide<T: OperandWord>(
        _ op: OperationPointer, isSigned: Bool, _: T.Type
    ) throws(Fault) {
        let b = try sourceValue(op, T.self)
        let a = register(Register.rax, as: T.self)
        let low: T
        let high: T
        let overflow: Bool
        if isSigned {
            let product =
                Int128(Int64(bitPattern: signExtended(a)))
                * Int128(Int64(bitPattern: signExtended(b)))
            low = T(truncatingIfNeeded: product)
            high = T(truncatingIfNeeded: product >> Int128(T.bitWidth))
            overflow = Int128(Int64(bitPattern: signExtended(low))) != product
        } else {
            let product = a.multipliedFullWidth(by: b)
            low = T(truncatingIfNeeded: product.low)
            high = product.high
            overflow = high != 0
        }
        setRegister(Register.rax, low)
        setRegister(T.bitWidth == 8 ? Register.ah : Register.rdx, high)
        setMultiplyFlags(overflow)
    }

    private func highHalf<T: OperandWord>(_: T.Type) -> UInt8 {
        T.bitWidth == 8 ? Register.ah : Register.rdx
    }

    func divideUnsigned<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let divisor = try sourceValue(op, T.self)
        let low = register(Register.rax, as: T.self)
        let high = register(highHalf(T.self), as: T.self)
        guard high < divisor else { throw .divideError }
        if high == 0 {
            setRegister(Register.rax, low / divisor)
            setRegister(highHalf(T.self), low % divisor)
            return
        }
        let dividend = UInt128(high) << UInt128(T.bitWidth) | UInt128(low)
        let (quotient, remainder) = dividend.quotientAndRemainder(dividingBy: UInt128(divisor))
        setRegister(Register.rax, T(truncatingIfNeeded: quotient))
        setRegister(highHalf(T.self), T(truncatingIfNeeded: remainder))
    }

    func divideSigned<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let divisor = Int64(bitPattern: signExtended(try sourceValue(op, T.self)))
        guard divisor != 0 else { throw .divideError }
        let low = register(Register.rax, as: T.self)
        let high = Int64(bitPattern: signExtended(register(highHalf(T.self), as: T.self)))
        if high == Int64(bitPattern: signExtended(low)) >> 63, divisor != -1 {
            // The dividend fits in one word.
            let dividend = Int64(bitPattern: signExtended(low))
            setRegister(Register.rax, T(truncatingIfNeeded: dividend / divisor))
            setRegister(highHalf(T.self), T(truncatingIfNeeded: dividend % divisor))
            return
        }
        let dividend = Int128(high) << Int128(T.bitWidth) | Int128(low)
        let (quotient, overflow) = dividend.dividedReportingOverflow(by: Int128(divisor))
        let result = T(truncatingIfNeeded: quotient)
        guard !overflow, Int128(Int64(bitPattern: signExtended(result))) == quotient else {
            throw .divideError
        }
        setRegister(Register.rax, result)
        setRegister(
            highHalf(T.self), T(truncatingIfNeeded: dividend &- quotient &* Int128(divisor)))
    }
}
