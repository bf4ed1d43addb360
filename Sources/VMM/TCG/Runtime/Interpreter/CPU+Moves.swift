extension CPU {
    @inline(__always)
    func loadOperand<T: OperandWord>(_ op: OperationPointer, as type: T.Type) throws(Fault) -> T {
        let linear = try linearAddress(op, size: MemoryLayout<T>.size, isWrite: false)
        return try load(linear, as: type)
    }

    @inline(__always)
    func storeOperand<T: OperandWord>(_ op: OperationPointer, _ value: T) throws(Fault) {
        let linear = try linearAddress(op, size: MemoryLayout<T>.size, isWrite: true)
        try store(linear, value)
    }

    @inline(__always)
    func moveRR<T: OperandWord>(_ op: OperationPointer, _: T.Type) {
        setRegister(op.destination, register(op.source, as: T.self))
    }

    @inline(__always)
    func moveRI<T: OperandWord>(_ op: OperationPointer, _: T.Type) {
        setRegister(op.destination, T(truncatingIfNeeded: op.immediate))
    }

    @inline(__always)
    func moveRM<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        setRegister(op.destination, try loadOperand(op, as: T.self))
    }

    @inline(__always)
    func moveMR<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        try storeOperand(op, register(op.source, as: T.self))
    }

    @inline(__always)
    func moveMI<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        try storeOperand(op, T(truncatingIfNeeded: op.immediate))
    }

    /// Sign-extends into a register of type `To`.
    @inline(__always)
    func moveSigned<From: OperandWord, To: OperandWord>(
        _ op: OperationPointer, _ value: From, to: To.Type
    ) {
        setRegister(op.destination, To(truncatingIfNeeded: signExtended(value)))
    }

    @inline(__always)
    func exchangeRR<T: OperandWord>(_ op: OperationPointer, _: T.Type) {
        let value = register(op.destination, as: T.self)
        setRegister(op.destination, register(op.source, as: T.self))
        setRegister(op.source, value)
    }

    /// A false condition still clears the upper half of a 32-bit destination.
    @inline(__always)
    func conditionalMove<T: OperandWord>(
        _ op: OperationPointer, _ condition: Condition, _: T.Type
    ) {
        let from = self.condition(condition) ? op.source : op.destination
        setRegister(op.destination, register(from, as: T.self))
    }
}
