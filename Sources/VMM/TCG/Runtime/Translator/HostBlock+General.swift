internal import TCGDecoder

// Operations of code `general` that the host executes itself. They are encoded anew from the
// decoded instruction, with the guest's registers replaced by the host's.

extension HostBlock {
    /// Where the two operands of an instruction are, and what becomes of them.
    private struct Shape {
        /// Operand 0 is in ModRM.rm; otherwise operand 1 is.
        var isRMFirst: Bool
        /// There is a register in ModRM.reg; otherwise it is part of the opcode.
        var hasRegister: Bool
        /// What is in ModRM.reg is written.
        var writesRegister = false
        /// What is in ModRM.rm is written.
        var writesRM = false

        static let byteSwappedStore = Shape(isRMFirst: true, hasRegister: true, writesRM: true)
    }

    mutating func emitGeneral(_ op: OperationPointer, _ use: FlagUse) -> Bool {
        guard let operation = GeneralOperation(rawValue: op.detail) else { return false }
        switch operation {
        case .div, .idiv: return emitDivision(op, isSigned: operation == .idiv)
        case .bt, .bts, .btr, .btc: return emitBitTest(op, use)
        case .xchg where !op.form.contains(.locked): return emitExchange(op)
        case .clc, .stc, .cmc, .lahf, .sahf:
            prepareFlags(use)
            copyBytes(op)
            return true
        case .cbw, .cwd:
            copyBytes(op)
            return true
        case .pushf: return op.size == 8 && emitPushFlags()
        case .cli, .cld: return emitSystemFlag(operation)
        case .stac, .clac: return emitAccessFlag(isSet: operation == .stac)
        case .movFromSegment: return emitSelector(op)
        case .movFromControl: return emitControlRegister(op)
        case .swapgs: return emitSwapGS()
        default:
            let isStore = operation == .movbe && op.form.contains(.memoryDestination)
            guard let shape = isStore ? Shape.byteSwappedStore : shape(operation) else {
                return false
            }
            return emitShaped(op, shape, use)
        }
    }

    private func shape(_ operation: GeneralOperation) -> Shape? {
        switch operation {
        case .shift, .alu, .unary: Shape(isRMFirst: true, hasRegister: false, writesRM: true)
        case .imul1, .mul: Shape(isRMFirst: true, hasRegister: false)
        case .shld, .shrd: Shape(isRMFirst: true, hasRegister: true, writesRM: true)
        case .cmpxchg: Shape(isRMFirst: true, hasRegister: true, writesRM: true)
        case .xadd, .xchg:
            Shape(isRMFirst: true, hasRegister: true, writesRegister: true, writesRM: true)
        case .cmpxchg8b, .cmpxchg16b: Shape(isRMFirst: true, hasRegister: false, writesRM: true)
        case .imul2, .bsf, .bsr, .popcnt, .tzcnt, .lzcnt, .crc32, .cmov, .movzx, .movsx,
            .movbe:
            Shape(isRMFirst: false, hasRegister: true, writesRegister: true)
        case .setcc: Shape(isRMFirst: true, hasRegister: false, writesRM: true)
        default: nil
        }
    }

    private mutating func emitShaped(
        _ op: OperationPointer, _ wanted: Shape, _ use: FlagUse
    ) -> Bool {
        guard var instruction = instruction(op) else { return false }
        // Models without them have these instead, with a prefix that means nothing.
        if op.detail == GeneralOperation.bsf.rawValue { instruction.mnemonic = .bsf }
        if op.detail == GeneralOperation.bsr.rawValue { instruction.mnemonic = .bsr }
        var shape = wanted
        // A locked operation may have a register as its source.
        if op.detail == GeneralOperation.alu.rawValue {
            shape.hasRegister = instruction.operands[1].kind != .immediate
        }
        let rm = instruction.operands[shape.isRMFirst ? 0 : 1]
        let reg = instruction.operands[shape.isRMFirst ? 1 : 0]
        // AH to BH would need an encoding without REX.
        guard instruction.hasModRM, rm.kind != .generalHigh,
            !shape.hasRegister || reg.kind == .general
        else { return false }
        let (first, second) = (HostRegister.first, HostRegister.second)
        let isMemory = rm.kind == .memory
        let size = op.detail == GeneralOperation.cmpxchg8b.rawValue ? 8 : rm.size
        if isMemory {
            guard canAddress(op) else { return false }
            let isLocked = op.form.contains(.locked)
            let isPair = op.detail == GeneralOperation.cmpxchg16b.rawValue
            access(
                op, size: isPair ? 16 : size, isWrite: shape.writesRM,
                isAligned: isLocked || isPair)
        }
        let a = isMemory ? first : source(rm.register, first)
        // One copy of it, where a register in memory is both.
        let isSame = shape.hasRegister && !isMemory && reg.register == rm.register
        let b =
            isSame
            ? a : shape.hasRegister ? source(reg.register, second) : instruction.modRMReg
        prepareFlags(use, mayWrite: use.writes == 0 && instruction.mayWriteFlags)
        code.integer(
            instruction, reg: b, isMemory ? .memory(operand) : .register(a),
            isLocked: isMemory && op.form.contains(.locked))
        if !isMemory && (shape.writesRM || isSame && shape.writesRegister) {
            store(rm.register, first)
        }
        if shape.writesRegister && !isSame { store(reg.register, second) }
        resume()
        return true
    }

    // MARK: Division

    /// Where the host would fault, and where it might, the interpreter divides.
    private mutating func emitDivision(_ op: OperationPointer, isSigned: Bool) -> Bool {
        let size = op.size
        guard size >= 4 else { return false }
        let (first, second) = (HostRegister.first, HostRegister.second)
        if op.form.contains(.memorySource) {
            guard canAddress(op) else { return false }
            access(op, size: size, isWrite: false)
            saveFlags()
            code.load(first, operand, size: size)
        } else {
            saveFlags()
            let divisor = source(op.source, first)
            code.move(first, divisor, size: size)
        }
        if isSigned {
            // The dividend must fit one word, and the divisor be neither 0 nor -1.
            code.move(second, HostRegister.rax, size: size)
            code.registers(0xC1, size: size, reg: 7, rm: second)  // sar r10, all
            code.byte(size * 8 - 1)
            code.registers(0x3B, size: size, reg: second, rm: HostRegister.rdx)
            orInterpret(code.jump(if: 5))
            code.lea(second, HostMemory(first, 1), size: size)
            code.registers(0x83, size: size, reg: 7, rm: second)  // cmp r10, 1
            code.byte(1)
            orInterpret(code.jump(if: 6))
        } else {
            code.registers(0x3B, size: size, reg: HostRegister.rdx, rm: first)
            orInterpret(code.jump(if: 3))
        }
        code.registers(0xF7, size: size, reg: isSigned ? 7 : 6, rm: first)
        resume()
        return true
    }

    // MARK: Bits

    private mutating func emitBitTest(_ op: OperationPointer, _ use: FlagUse) -> Bool {
        guard let instruction = instruction(op), op.size >= 4 else { return false }
        let isWrite = op.detail != GeneralOperation.bt.rawValue
        let isLocked = op.form.contains(.locked)
        let (first, second) = (HostRegister.first, HostRegister.second)
        let isMemory = op.form.contains(.memoryDestination)
        guard !isMemory || canAddress(op) && op.addressKind != .address32In64 else {
            return false
        }
        if op.form.contains(.immediateSource) {
            if isMemory {
                access(op, size: op.size, isWrite: isWrite, isAligned: isLocked)
            }
            let a = isMemory ? first : source(op.destination, first)
            prepareFlags(use)
            code.integer(
                instruction, reg: instruction.modRMReg,
                isMemory ? .memory(operand) : .register(a), isLocked: isLocked)
            if !isMemory && isWrite { store(op.destination, first) }
            resume()
            return true
        }
        guard isMemory else {
            let a = source(op.destination, first)
            let b = source(op.source, second)
            prepareFlags(use)
            code.integer(instruction, reg: b, .register(a), isLocked: false)
            if isWrite { store(op.destination, first) }
            return true
        }
        // The word that has the bit, and the bit's number in it.
        accessBit(op, isWrite: isWrite, isAligned: isLocked)
        let number = source(op.source, second)
        if number != second { code.move(second, number) }
        code.registers(0x83, size: 4, reg: 4, rm: second)  // and r10d, bits
        code.byte(op.size * 8 - 1)
        prepareFlags(use)
        code.integer(instruction, reg: second, .memory(operand), isLocked: isLocked)
        resume()
        return true
    }

    // MARK: Moves

    /// Without LOCK, which is not needed on a single CPU, two moves do.
    private mutating func emitExchange(_ op: OperationPointer) -> Bool {
        guard op.form.contains(.memoryDestination), op.size >= 4, canAddress(op),
            !HostRegister.isInMemory(op.source)
        else { return false }
        let second = HostRegister.second
        let register = HostRegister.of(op.source)
        access(op, size: op.size, isWrite: true)
        code.load(second, operand, size: op.size)
        code.store(operand, register, size: op.size)
        code.move(register, second)
        resume()
        return true
    }
}

extension Instruction {
    /// Shifts by CL leave the flags alone when it is zero.
    fileprivate var mayWriteFlags: Bool {
        map == 0 ? opcode & 0xFE == 0xD2 || opcode & 0xFE == 0xC0 : opcode & 0xF7 == 0xA5
    }
}
