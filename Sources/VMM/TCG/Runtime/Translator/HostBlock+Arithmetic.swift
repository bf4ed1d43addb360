// Arithmetic and moves. Each returns `false`, before anything has been written, where it has no
// code for the operands.
extension HostBlock {
    /// A one-byte operand. The registers without host registers are in `scratch`.
    private mutating func byteOperand(_ offset: UInt8, _ scratch: UInt8) -> ByteRegister {
        let number = offset >> 3
        return ByteRegister(target(number, scratch), isHigh: offset & 1 != 0)
    }

    /// AH to BH cannot be used together with registers that need a REX prefix.
    private func fit(_ a: ByteRegister, _ b: ByteRegister) -> Bool {
        if !a.isHigh && !b.isHigh { return true }
        return (a.isHigh || a.number < 4) && (b.isHigh || b.number < 4)
    }

    // MARK: Two operands: an operation's code is 8 * number, TEST's and MOV's are their own

    struct TwoOperands {
        /// Register into register or memory, for one byte; the others are 1 higher, and 2 higher
        /// register or memory into register.
        var opcode: UInt16
        /// What is in ModRM.reg of the form with an immediate.
        var digit: UInt8
        var isTest = false
        var isMove = false
        var writes: Bool
    }

    mutating func emitTwo(
        _ op: OperationPointer, _ kind: TwoOperands, form: UInt16, size: UInt8, _ use: FlagUse
    ) -> Bool {
        switch form {
        case 0: return emitRR(op, kind, size, use)
        case 1: return emitRI(op, kind, size, use)
        case 2: return emitRM(op, kind, size, use)
        case 3: return emitMR(op, kind, size, use)
        default: return emitMI(op, kind, size, use)
        }
    }

    private mutating func emitRR(
        _ op: OperationPointer, _ kind: TwoOperands, _ size: UInt8, _ use: FlagUse
    ) -> Bool {
        let (first, second) = (HostRegister.first, HostRegister.second)
        if size == 1 {
            let a = byteOperand(op.destination, first)
            let b = byteOperand(op.source, second)
            guard fit(a, b) else { return false }
            _ = source(op.destination >> 3, first)
            _ = source(op.source >> 3, second)
            prepareFlags(use)
            code.byteRegisters(kind.opcode, size: 1, reg: b, rm: a)
            if kind.writes { store(op.destination >> 3, first) }
            return true
        }
        let b = source(op.source, second)
        let isWhole = kind.isMove && size >= 4
        let a =
            isWhole ? target(op.destination, first) : source(op.destination, first)
        prepareFlags(use)
        code.registers(kind.opcode + 1, size: size, reg: b, rm: a)
        if kind.writes { store(op.destination, first) }
        return true
    }

    private mutating func emitRI(
        _ op: OperationPointer, _ kind: TwoOperands, _ size: UInt8, _ use: FlagUse
    ) -> Bool {
        let first = HostRegister.first
        if size == 1 {
            let a = byteOperand(op.destination, first)
            _ = source(op.destination >> 3, first)
            prepareFlags(use)
            let opcode: UInt16 = kind.isTest ? 0xF6 : kind.isMove ? 0xC6 : 0x80
            code.byteRegisters(
                opcode, size: 1, reg: ByteRegister(kind.digit & 3), rm: a,
                digit: kind.digit)
            code.immediate(op.immediate, size: 1)
            if kind.writes { store(op.destination >> 3, first) }
            return true
        }
        if kind.isMove && size >= 4 {
            let value = UInt64(bitPattern: op.immediate)
            code.set(
                target(op.destination, first), to: size == 4 ? value & 0xFFFF_FFFF : value)
            store(op.destination, first)
            return true
        }
        let a = source(op.destination, first)
        prepareFlags(use)
        emitImmediate(kind, size, op.immediate) { code, opcode in
            code.registers(opcode, size: size, reg: kind.digit, rm: a)
        }
        if kind.writes { store(op.destination, first) }
        return true
    }

    private mutating func emitImmediate(
        _ kind: TwoOperands, _ size: UInt8, _ value: Int64,
        _ operands: (inout HostAssembler, UInt16) -> Void
    ) {
        let isShort = !kind.isTest && !kind.isMove && Int8(exactly: value) != nil
        if size == 1 {
            operands(&code, kind.isTest ? 0xF6 : kind.isMove ? 0xC6 : 0x80)
            code.immediate(value, size: 1)
        } else if isShort {
            operands(&code, 0x83)
            code.immediate(value, size: 1)
        } else {
            operands(&code, kind.isTest ? 0xF7 : kind.isMove ? 0xC7 : 0x81)
            code.immediate(value, size: size)
        }
    }

    private mutating func emitRM(
        _ op: OperationPointer, _ kind: TwoOperands, _ size: UInt8, _ use: FlagUse
    ) -> Bool {
        guard canAddress(op), !kind.isTest else { return false }
        let second = HostRegister.second
        let guest = size == 1 ? op.destination >> 3 : op.destination
        // AH to BH cannot be used with R9.
        if size == 1, op.destination & 1 != 0 { return false }
        access(op, size: size, isWrite: false)
        let isWhole = kind.isMove && size >= 4
        let a = isWhole ? target(guest, second) : source(guest, second)
        prepareFlags(use)
        code.memory(
            kind.opcode + (size == 1 ? 2 : 3), size: size, reg: a,
            operand, needsREX: size == 1)
        if kind.writes { store(guest, second) }
        resume()
        return true
    }

    private mutating func emitMR(
        _ op: OperationPointer, _ kind: TwoOperands, _ size: UInt8, _ use: FlagUse
    ) -> Bool {
        guard canAddress(op) else { return false }
        if size == 1, op.source & 1 != 0 { return false }
        access(op, size: size, isWrite: kind.writes)
        let b = source(size == 1 ? op.source >> 3 : op.source, HostRegister.second)
        prepareFlags(use)
        code.memory(
            kind.opcode + (size == 1 ? 0 : 1), size: size, reg: b,
            operand, needsREX: size == 1)
        resume()
        return true
    }

    private mutating func emitMI(
        _ op: OperationPointer, _ kind: TwoOperands, _ size: UInt8, _ use: FlagUse
    ) -> Bool {
        guard canAddress(op) else { return false }
        access(op, size: size, isWrite: kind.writes)
        prepareFlags(use)
        let operand = operand
        emitImmediate(kind, size, op.immediate) { code, opcode in
            code.memory(opcode, size: size, reg: kind.digit, operand)
        }
        resume()
        return true
    }

    // MARK: One operand

    /// `opcode` is the code for one byte, `number` is in ModRM.reg.
    mutating func emitOne(
        _ op: OperationPointer, opcode: UInt16, number: UInt8, isMemory: Bool, size: UInt8,
        _ use: FlagUse
    ) -> Bool {
        let first = HostRegister.first
        if isMemory {
            guard canAddress(op) else { return false }
            access(op, size: size, isWrite: true)
            prepareFlags(use)
            code.memory(
                opcode + (size == 1 ? 0 : 1), size: size, reg: number, operand)
            resume()
            return true
        }
        if size == 1 {
            let a = byteOperand(op.destination, first)
            _ = source(op.destination >> 3, first)
            prepareFlags(use)
            code.byteRegisters(
                opcode, size: 1, reg: ByteRegister(number & 3), rm: a, digit: number)
            store(op.destination >> 3, first)
            return true
        }
        let a = source(op.destination, first)
        prepareFlags(use)
        code.registers(opcode + 1, size: size, reg: number, rm: a)
        store(op.destination, first)
        return true
    }

    // MARK: Extensions

    /// MOVZX and MOVSX; `opcode` is for one byte, the next one for two.
    mutating func emitExtension(
        _ op: OperationPointer, opcode: UInt16, from: UInt8, to size: UInt8, isMemory: Bool
    ) -> Bool {
        let second = HostRegister.second
        let wanted = from == 4 ? 0x63 : opcode + (from == 2 ? 1 : 0)
        if isMemory {
            guard canAddress(op) else { return false }
            access(op, size: from, isWrite: false)
            code.memory(
                wanted, size: size, reg: target(op.destination, second),
                operand)
        } else if from == 1 {
            let a = byteOperand(op.source, HostRegister.first)
            let b = ByteRegister(target(op.destination, second))
            guard !a.isHigh || b.number < 8 else { return false }
            _ = source(op.source >> 3, HostRegister.first)
            code.byteRegisters(wanted, size: size, reg: b, rm: a)
        } else {
            let a = source(op.source, HostRegister.first)
            code.registers(wanted, size: size, reg: target(op.destination, second), rm: a)
        }
        store(op.destination, second)
        resume()
        return true
    }

    // MARK: Multiplication and bits

    /// A register and a source that is a register or memory, `0F xx /r` style; the register is the
    /// destination. IMUL with an immediate passes it.
    mutating func emitIntoRegister(
        _ op: OperationPointer, _ opcode: UInt16, size: UInt8, isMemory: Bool, _ use: FlagUse,
        readsDestination: Bool, immediate: Int64? = nil
    ) -> Bool {
        let (first, second) = (HostRegister.first, HostRegister.second)
        if isMemory {
            guard canAddress(op) else { return false }
            access(op, size: size, isWrite: false)
        }
        let b = isMemory ? nil : source(op.source, first)
        let a = readsDestination ? source(op.destination, second) : target(op.destination, second)
        prepareFlags(use)
        if let b {
            code.registers(opcode, size: size, reg: a, rm: b)
        } else {
            code.memory(opcode, size: size, reg: a, operand)
        }
        if let immediate { code.word(Int32(truncatingIfNeeded: immediate)) }
        store(op.destination, second)
        resume()
        return true
    }
}
