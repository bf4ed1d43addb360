// From operation codes to what is written for them.
extension HostBlock {
    private typealias Code = OperationCode

    /// - Returns: `false` if there is no code for the operation, and nothing has been written.
    mutating func emit(_ op: OperationPointer, _ use: FlagUse) -> Bool {
        let code = op.code.rawValue
        switch code {
        case Code.addRR8.rawValue...Code.testMI64.rawValue:
            let place = code - Code.addRR8.rawValue
            return emitTwo(
                op, Self.arithmetic(UInt8(place / 20)), form: place % 20 / 4,
                size: 1 << UInt8(place & 3), use)
        case Code.movRR8.rawValue...Code.movMI64.rawValue:
            let place = code - Code.movRR8.rawValue
            return emitTwo(
                op, Self.move, form: place % 20 / 4, size: 1 << UInt8(place & 3), use)
        case Code.lea32.rawValue...Code.nop.rawValue: return emitMove(op, code)
        case Code.incR8.rawValue...Code.negM64.rawValue:
            let place = code - Code.incR8.rawValue
            let isComplement = place >= 16
            return emitOne(
                op, opcode: isComplement ? 0xF6 : 0xFE,
                number: UInt8(place / 8 % 2) + (isComplement ? 2 : 0), isMemory: place & 4 != 0,
                size: 1 << UInt8(place & 3), use)
        case Code.shlRI32.rawValue...Code.rorRC64.rawValue: return emitShift(op, code, use)
        case Code.imulRR32.rawValue...Code.btRI64.rawValue: return emitProduct(op, code, use)
        case Code.jo.rawValue...Code.cmovgRR64.rawValue: return emitCondition(op, code, use)
        case Code.pushR64.rawValue...Code.leave64.rawValue: return emitStack(op)
        case Code.fallThrough.rawValue:
            exit(.next)
            return true
        case Code.jump.rawValue...Code.retImmediate64.rawValue: return emitBranch(op)
        case Code.enableInterrupts.rawValue: return emitEnableInterrupts(op)
        case Code.string.rawValue: return emitString(op)
        case Code.general.rawValue: return emitGeneral(op, use)
        case Code.leaf.rawValue: return emitVector(op, use)
        default: return false
        }
    }

    private static func arithmetic(_ number: UInt8) -> TwoOperands {
        if number == 8 {
            return TwoOperands(opcode: 0x84, digit: 0, isTest: true, writes: false)
        }
        return TwoOperands(opcode: UInt16(number) * 8, digit: number, writes: number != 7)
    }

    private static let move = TwoOperands(
        opcode: 0x88, digit: 0, isMove: true, writes: true)

    private mutating func emitMove(_ op: OperationPointer, _ code: UInt16) -> Bool {
        switch op.code {
        case .lea32, .lea64:
            let isConstant = op.base == Register.none && op.index == Register.none
            guard isConstant || Int32(exactly: op.displacement) != nil else { return false }
            let target = target(op.destination, HostRegister.first)
            sum(op, into: target, size: op.code == .lea32 ? 4 : 8)
            store(op.destination, HostRegister.first)
            return true
        case .movzxRR8, .movzxRR16:
            return emitExtension(
                op, opcode: 0x0FB6, from: op.code == .movzxRR8 ? 1 : 2, to: 4, isMemory: false)
        case .movzxRM8, .movzxRM16:
            return emitExtension(
                op, opcode: 0x0FB6, from: op.code == .movzxRM8 ? 1 : 2, to: 4, isMemory: true)
        case .movsx32RR8, .movsx32RR16, .movsx32RM8, .movsx32RM16:
            let place = code - Code.movsx32RR8.rawValue
            return emitExtension(
                op, opcode: 0x0FBE, from: 1 << UInt8(place & 1), to: 4, isMemory: place >= 2)
        case .movsx64RR8, .movsx64RR16, .movsx64RR32, .movsx64RM8, .movsx64RM16, .movsx64RM32:
            let place = code - Code.movsx64RR8.rawValue
            return emitExtension(
                op, opcode: 0x0FBE, from: 1 << UInt8(place % 3), to: 8, isMemory: place >= 3)
        case .xchgRR32, .xchgRR64:
            let a = source(op.destination, HostRegister.first)
            let b =
                op.source == op.destination ? a : source(op.source, HostRegister.second)
            self.code.registers(0x87, size: op.code == .xchgRR32 ? 4 : 8, reg: b, rm: a)
            store(op.destination, HostRegister.first)
            if op.source != op.destination { store(op.source, HostRegister.second) }
            return true
        case .cwde: self.code.byte(0x98)
        case .cdqe: self.code.bytes(0x48, 0x98)
        case .cdq: self.code.byte(0x99)
        case .cqo: self.code.bytes(0x48, 0x99)
        case .bswap32, .bswap64:
            let a = source(op.destination, HostRegister.first)
            let rex: UInt8 = (op.code == .bswap64 ? 8 : 0) | a >> 3
            if rex != 0 { self.code.byte(0x40 | rex) }
            self.code.bytes(0x0F, 0xC8 | a & 7)
            store(op.destination, HostRegister.first)
        case .nop: break
        default: return false
        }
        return true
    }

    private mutating func emitShift(
        _ op: OperationPointer, _ code: UInt16, _ use: FlagUse
    ) -> Bool {
        let place = code - Code.shlRI32.rawValue
        let number: UInt8 =
            switch place / 4 {
            case 0: 4
            case 1: 5
            case 2: 7
            case 3: 0
            default: 1
            }
        let a = source(op.destination, HostRegister.first)
        prepareFlags(use, mayWrite: use.writes == 0)
        let isImmediate = place & 2 == 0
        self.code.registers(
            isImmediate ? 0xC1 : 0xD3, size: place & 1 == 0 ? 4 : 8, reg: number, rm: a)
        if isImmediate { self.code.byte(UInt8(truncatingIfNeeded: op.immediate)) }
        store(op.destination, HostRegister.first)
        return true
    }

    private mutating func emitProduct(
        _ op: OperationPointer, _ code: UInt16, _ use: FlagUse
    ) -> Bool {
        let size: UInt8 = (code - Code.imulRR32.rawValue) & 1 == 0 ? 4 : 8
        switch op.code {
        case .imulRR32, .imulRR64, .imulRM32, .imulRM64:
            let isMemory = op.code == .imulRM32 || op.code == .imulRM64
            return emitIntoRegister(
                op, 0x0FAF, size: size, isMemory: isMemory, use, readsDestination: true)
        case .imulRRI32, .imulRRI64, .imulRMI32, .imulRMI64:
            let isMemory = op.code == .imulRMI32 || op.code == .imulRMI64
            return emitIntoRegister(
                op, 0x69, size: size, isMemory: isMemory, use, readsDestination: false,
                immediate: op.immediate)
        case .mulR32, .mulR64:
            let a = source(op.source, HostRegister.first)
            prepareFlags(use)
            self.code.registers(0xF7, size: size, reg: 4, rm: a)
        case .mulM32, .mulM64:
            guard canAddress(op) else { return false }
            access(op, size: size, isWrite: false)
            prepareFlags(use)
            self.code.memory(0xF7, size: size, reg: 4, operand)
            resume()
        case .btRR32, .btRR64:
            let a = source(op.destination, HostRegister.first)
            let b = source(op.source, HostRegister.second)
            prepareFlags(use)
            self.code.registers(0x0FA3, size: size, reg: b, rm: a)
        case .btRI32, .btRI64:
            let a = source(op.destination, HostRegister.first)
            prepareFlags(use)
            self.code.registers(0x0FBA, size: size, reg: 4, rm: a)
            self.code.byte(UInt8(truncatingIfNeeded: op.immediate))
        default: return false
        }
        return true
    }

    private mutating func emitCondition(
        _ op: OperationPointer, _ code: UInt16, _ use: FlagUse
    ) -> Bool {
        let first = HostRegister.first
        switch code {
        case Code.jo.rawValue...Code.jg.rawValue:
            exit(if: UInt8(code - Code.jo.rawValue))
        case Code.seto.rawValue...Code.setg.rawValue:
            let number = op.destination >> 3
            let isHigh = op.destination & 1 != 0
            let a = source(number, first)
            restoreFlags()
            self.code.byteRegisters(
                0x0F90 | (code - Code.seto.rawValue), size: 1, reg: ByteRegister(0),
                rm: ByteRegister(a, isHigh: isHigh))
            store(number, first)
        default:
            let isWide = code >= Code.cmovoRR64.rawValue
            let condition = (code - Code.cmovoRR32.rawValue) & 15
            let a = source(op.destination, first)
            let b = source(op.source, HostRegister.second)
            restoreFlags()
            self.code.registers(0x0F40 | condition, size: isWide ? 8 : 4, reg: a, rm: b)
            store(op.destination, first)
        }
        return true
    }
}
