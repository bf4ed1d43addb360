// The frequent arithmetic, generic over the operand size and specialised into the big switch.
//
// A memory destination is read and written through one TLB look-up where that is possible. Where
// it is not, the write is probed first, so that a fault is a write's and comes before any change.

extension CPU {
    /// Computes a two-operand operation and sets the flags.
    @inline(__always)
    func alu<T: OperandWord>(_ operation: ALUOperation, _ a: T, _ b: T) -> T {
        switch operation {
        case .add:
            let result = a &+ b
            setFlags(result, carries: (a & b) | ((a | b) & ~result))
            return result
        case .adc:
            let result = a &+ b &+ (carryFlag ? 1 : 0)
            setFlags(result, carries: (a & b) | ((a | b) & ~result))
            return result
        case .sub, .cmp:
            let result = a &- b
            setFlags(result, carries: (~a & b) | (~(a ^ b) & result))
            return result
        case .sbb:
            let result = a &- b &- (carryFlag ? 1 : 0)
            setFlags(result, carries: (~a & b) | (~(a ^ b) & result))
            return result
        case .and, .test:
            let result = a & b
            setLogicFlags(result)
            return result
        case .or:
            let result = a | b
            setLogicFlags(result)
            return result
        case .xor:
            let result = a ^ b
            setLogicFlags(result)
            return result
        }
    }

    @inline(__always)
    func keepsResult(_ operation: ALUOperation) -> Bool {
        operation != .cmp && operation != .test
    }

    @inline(__always)
    func aluRR<T: OperandWord>(_ op: OperationPointer, _ operation: ALUOperation, _: T.Type) {
        let a = register(op.destination, as: T.self)
        let result = alu(operation, a, register(op.source, as: T.self))
        if keepsResult(operation) { setRegister(op.destination, result) }
    }

    @inline(__always)
    func aluRI<T: OperandWord>(_ op: OperationPointer, _ operation: ALUOperation, _: T.Type) {
        let a = register(op.destination, as: T.self)
        let result = alu(operation, a, T(truncatingIfNeeded: op.immediate))
        if keepsResult(operation) { setRegister(op.destination, result) }
    }

    @inline(__always)
    func aluRM<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _: T.Type
    ) throws(Fault) {
        let b = try loadOperand(op, as: T.self)
        let result = alu(operation, register(op.destination, as: T.self), b)
        if keepsResult(operation) { setRegister(op.destination, result) }
    }

    @inline(__always)
    func aluMR<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _: T.Type
    ) throws(Fault) {
        try aluMemory(op, operation, register(op.source, as: T.self))
    }

    @inline(__always)
    func aluMI<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _: T.Type
    ) throws(Fault) {
        try aluMemory(op, operation, T(truncatingIfNeeded: op.immediate))
    }

    /// CMP and TEST of memory.
    @inline(__always)
    func compareMR<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _: T.Type
    ) throws(Fault) {
        _ = alu(operation, try loadOperand(op, as: T.self), register(op.source, as: T.self))
    }

    @inline(__always)
    func compareMI<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _: T.Type
    ) throws(Fault) {
        _ = alu(operation, try loadOperand(op, as: T.self), T(truncatingIfNeeded: op.immediate))
    }

    @inline(__always)
    func aluMemory<T: OperandWord>(
        _ op: OperationPointer, _ operation: ALUOperation, _ operand: T
    ) throws(Fault) {
        let linear = try linearAddress(op, size: MemoryLayout<T>.size, isWrite: true)
        // SAFETY: `writableHost` answers for this many bytes.
        if let host = unsafe writableHost(linear, size: MemoryLayout<T>.size) {
            let result = unsafe alu(operation, host.loadUnaligned(as: T.self), operand)
            unsafe host.storeBytes(of: result, as: T.self)
            return
        }
        try slowALUMemory(linear, operation, operand)
    }

    @inline(never)
    func slowALUMemory<T: OperandWord>(
        _ linear: UInt64, _ operation: ALUOperation, _ operand: T
    ) throws(Fault) {
        try probeWrite(linear, size: MemoryLayout<T>.size)
        let value = try load(linear, as: T.self)
        try store(linear, alu(operation, value, operand))
    }

    /// INC, DEC, NOT and NEG: the result, flags set.
    @inline(__always)
    func unary<T: OperandWord>(_ operation: UnaryOperation, _ value: T) -> T {
        switch operation {
        case .inc:
            let result = value &+ 1
            setFlags(
                result, carry: carryFlag,
                overflow: result == T(1) &<< T(truncatingIfNeeded: T.bitWidth &- 1),
                adjust: result & 15 == 0)
            return result
        case .dec:
            let result = value &- 1
            setFlags(
                result, carry: carryFlag,
                overflow: value == T(1) &<< T(truncatingIfNeeded: T.bitWidth &- 1),
                adjust: value & 15 == 0)
            return result
        case .not: return ~value
        case .neg: return alu(.sub, 0, value)
        }
    }

    @inline(__always)
    func unaryR<T: OperandWord>(_ op: OperationPointer, _ operation: UnaryOperation, _: T.Type) {
        setRegister(op.destination, unary(operation, register(op.destination, as: T.self)))
    }

    @inline(__always)
    func unaryM<T: OperandWord>(
        _ op: OperationPointer, _ operation: UnaryOperation, _: T.Type
    ) throws(Fault) {
        let linear = try linearAddress(op, size: MemoryLayout<T>.size, isWrite: true)
        // SAFETY: as in `aluMemory`.
        if let host = unsafe writableHost(linear, size: MemoryLayout<T>.size) {
            let result = unsafe unary(operation, host.loadUnaligned(as: T.self))
            unsafe host.storeBytes(of: result, as: T.self)
            return
        }
        try slowUnaryMemory(linear, operation, T.self)
    }

    @inline(never)
    func slowUnaryMemory<T: OperandWord>(
        _ linear: UInt64, _ operation: UnaryOperation, _: T.Type
    ) throws(Fault) {
        try probeWrite(linear, size: MemoryLayout<T>.size)
        let value = try load(linear, as: T.self)
        try store(linear, unary(operation, value))
    }
}
