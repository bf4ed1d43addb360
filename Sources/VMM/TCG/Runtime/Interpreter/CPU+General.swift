internal import Synchronization

// The instructions behind `OperationCode.general`.

extension CPU {
    @inline(never)
    func general(_ op: OperationPointer) throws(Fault) {
        let operation = GeneralOperation(rawValue: op.detail) ?? .fence
        if operation.rawValue <= GeneralOperation.unary.rawValue {
            switch op.size {
            case 1: try generalArithmetic(op, operation, UInt8.self)
            case 2: try generalArithmetic(op, operation, UInt16.self)
            case 4: try generalArithmetic(op, operation, UInt32.self)
            default: try generalArithmetic(op, operation, UInt64.self)
            }
        } else if operation.rawValue < GeneralOperation.bound.rawValue {
            try generalMove(op, operation)
        } else {
            try generalSystem(op, operation)
        }
    }

    private func generalArithmetic<T: OperandWord>(
        _ op: OperationPointer, _ operation: GeneralOperation, _: T.Type
    ) throws(Fault) {
        switch operation {
        case .shift: try generalShift(op, T.self)
        case .shld: try doubleShift(op, left: true, T.self)
        case .shrd: try doubleShift(op, left: false, T.self)
        case .imul1: try multiplyWide(op, isSigned: true, T.self)
        case .mul: try multiplyWide(op, isSigned: false, T.self)
        case .imul2: try multiplyGeneral(op, T.self)
        case .div: try divideUnsigned(op, T.self)
        case .idiv: try divideSigned(op, T.self)
        case .bt, .bts, .btr, .btc: try bitTest(op, operation, T.self)
        case .bsf: try bitScan(op, forward: true, T.self)
        case .bsr: try bitScan(op, forward: false, T.self)
        case .popcnt: try populationCount(op, T.self)
        case .tzcnt: try countZeros(op, T.self) { $0.trailingZeroBitCount }
        case .lzcnt: try countZeros(op, T.self) { $0.leadingZeroBitCount }
        case .movbe: try setDestination(op, try sourceValue(op, T.self).byteSwapped)
        case .crc32: try crc32(op, T.self)
        case .cmpxchg: try compareAndExchange(op, T.self)
        case .cmpxchg8b: try compareAndExchange8(op)
        case .cmpxchg16b: try compareAndExchange16(op)
        case .xadd: try exchangeAndAdd(op, T.self)
        case .alu: try lockedALU(op, T.self)
        case .unary: try lockedUnary(op, T.self)
        default: break
        }
    }

    /// IMUL with two operands: destination by source; with three: source by immediate.
    private func multiplyGeneral<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        if op.form.contains(.immediateSource) {
            let a =
                op.form.contains(.memorySource)
                ? try loadOperand(op, as: T.self) : register(op.source, as: T.self)
            setRegister(op.destination, multiplySigned(a, T(truncatingIfNeeded: op.immediate)))
        } else {
            let b = try sourceValue(op, T.self)
            setRegister(op.destination, multiplySigned(register(op.destination, as: T.self), b))
        }
    }

    /// With LOCK and several CPUs; the operation is in `destination`.
    private func lockedALU<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let operation = ALUOperation(rawValue: op.destination) ?? .add
        let operand = try sourceValue(op, T.self)
        try modifyDestination(op, T.self) { alu(operation, $0, operand) }
    }

    private func lockedUnary<T: OperandWord>(_ op: OperationPointer, _: T.Type) throws(Fault) {
        let operation = UnaryOperation(rawValue: op.destination) ?? .inc
        try modifyDestination(op, T.self) { unary(operation, $0) }
    }

    private func generalMove(
        _ op: OperationPointer, _ operation: GeneralOperation
    ) throws(Fault) {
        switch operation {
        case .aaa: asciiAdjust(subtracting: false)
        case .aas: asciiAdjust(subtracting: true)
        case .aad: asciiAdjustBeforeDivision(base: UInt8(truncatingIfNeeded: op.immediate))
        case .aam:
            try asciiAdjustAfterMultiplication(base: UInt8(truncatingIfNeeded: op.immediate))
        case .daa: decimalAdjust(subtracting: false)
        case .das: decimalAdjust(subtracting: true)
        case .xchg:
            switch op.size {
            case 1: try exchange(op, UInt8.self)
            case 2: try exchange(op, UInt16.self)
            case 4: try exchange(op, UInt32.self)
            default: try exchange(op, UInt64.self)
            }
        case .cmov: try conditionalMoveGeneral(op)
        case .setcc:
            try setDestination(op, holds(op.source) ? 1 : 0 as UInt8)
        case .movzx: setRegister(op.destination, try narrowSource(op), size: op.size)
        case .movsx:
            let value = try narrowSource(op)
            let extended: UInt64
            switch op.immediate {
            case 1: extended = signExtended(UInt8(truncatingIfNeeded: value))
            case 2: extended = signExtended(UInt16(truncatingIfNeeded: value))
            default: extended = signExtended(UInt32(truncatingIfNeeded: value))
            }
            setRegister(op.destination, extended, size: op.size)
        case .cbw:
            let value = signExtended(register(Register.al, as: UInt8.self))
            setRegister(Register.rax, UInt16(truncatingIfNeeded: value))
        case .cwd:
            let sign = signExtended(register(Register.rax, as: UInt16.self)) >> 63
            setRegister(Register.rdx, sign != 0 ? 0xFFFF : 0 as UInt16)
        case .bswap16: setRegister(op.destination, 0 as UInt16)
        case .xlat: try translateByte(op)
        case .movFromSegment: try moveFromSegment(op)
        case .push: try pushGeneral(op)
        case .pushSegment:
            try pushValue(UInt64(segment(op.source).selector), size: op.size)
        case .pop: try popGeneral(op)
        case .pusha: try pushAll(size: op.size)
        case .popa: try popAll(size: op.size)
        case .pushf: try pushValue(try flagsToPush(operandSize: op.size), size: op.size)
        case .enter: try enter(op)
        case .leave: try leaveGeneral(op)
        default: try changeFlag(operation)
        }
    }

    /// Whether a condition that is not known when compiling holds.
    func holds(_ number: UInt8) -> Bool { condition(Condition(rawValue: number & 15) ?? .o) }

    /// CMOVcc; the condition is in `immediate`. The source is read in any case.
    private func conditionalMoveGeneral(_ op: OperationPointer) throws(Fault) {
        let value: UInt64
        if op.form.contains(.memorySource) {
            let linear = try linearAddress(op, size: Int(op.size), isWrite: false)
            value = try loadSized(linear, size: op.size)
        } else {
            value = self[op.source]
        }
        let isTrue = holds(UInt8(truncatingIfNeeded: op.immediate))
        setRegister(op.destination, isTrue ? value : self[op.destination], size: op.size)
    }

    /// The source of MOVZX and MOVSX, whose size is in `immediate`.
    private func narrowSource(_ op: OperationPointer) throws(Fault) -> UInt64 {
        let size = UInt8(truncatingIfNeeded: op.immediate)
        if op.form.contains(.memorySource) {
            let linear = try linearAddress(op, size: Int(size), isWrite: false)
            return try loadSized(linear, size: size)
        }
        switch size {
        case 1: return UInt64(register(op.source, as: UInt8.self))
        case 2: return UInt64(register(op.source, as: UInt16.self))
        default: return UInt64(register(op.source, as: UInt32.self))
        }
    }

    private func translateByte(_ op: OperationPointer) throws(Fault) {
        var offset = self[Register.rbx] &+ UInt64(register(Register.al, as: UInt8.self))
        switch op.displacement {
        case 2: offset &= 0xFFFF
        case 4: offset &= 0xFFFF_FFFF
        default: break
        }
        let linear = try linearAddress(
            segment: op.segment, offset: offset, size: 1, isWrite: false)
        setRegister(Register.al, try load(linear, as: UInt8.self))
    }

    /// Memory gets 16 bits, a register its operand size.
    private func moveFromSegment(_ op: OperationPointer) throws(Fault) {
        let selector = segment(op.source).selector
        if op.form.contains(.memoryDestination) {
            try storeOperand(op, selector)
        } else {
            setRegister(op.destination, UInt64(selector), size: op.size)
        }
    }

    private func changeFlag(_ operation: GeneralOperation) throws(Fault) {
        switch operation {
        case .clc: setCarry(false)
        case .stc: setCarry(true)
        case .cmc: setCarry(!carryFlag)
        case .cld: fields.systemFlags &= ~RFLAGS.df
        case .std: fields.systemFlags |= RFLAGS.df
        case .lahf:
            setRegister(Register.ah, UInt8(truncatingIfNeeded: arithmeticFlags & 0xD5 | 2))
        case .sahf:
            let kept = arithmeticFlags & RFLAGS.of
            setArithmeticFlags(UInt64(register(Register.ah, as: UInt8.self)) & 0xD5 | kept)
        case .salc: setRegister(Register.al, carryFlag ? 0xFF : 0 as UInt8)
        case .cli: try cli()
        case .stac: try stac()
        case .clac: try clac()
        default: break
        }
    }
}
