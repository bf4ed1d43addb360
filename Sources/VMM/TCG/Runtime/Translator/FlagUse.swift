/// Which of the arithmetic flags an operation reads, and which it always writes.
struct FlagUse {
    var reads: UInt8 = 0
    var writes: UInt8 = 0

    static let carry: UInt8 = 1
    static let parity: UInt8 = 2
    static let adjust: UInt8 = 4
    static let zero: UInt8 = 8
    static let sign: UInt8 = 16
    static let overflow: UInt8 = 32
    static let all: UInt8 = 63

    /// What a condition looks at.
    static func condition(_ number: UInt8) -> UInt8 {
        switch number >> 1 & 7 {
        case 0: overflow
        case 1: carry
        case 2: zero
        case 3: carry | zero
        case 4: sign
        case 5: parity
        case 6: sign | overflow
        default: zero | sign | overflow
        }
    }

    init(reads: UInt8 = 0, writes: UInt8 = 0) {
        self.reads = reads
        self.writes = writes
    }

    /// Of an operation that is translated. What the interpreter does may read all.
    init(_ op: OperationPointer) {
        let code = op.code.rawValue
        switch code {
        case OperationCode.addRR8.rawValue...OperationCode.testMI64.rawValue:
            writes = Self.all
            let operation = (code - OperationCode.addRR8.rawValue) / 20
            if operation == 2 || operation == 3 { reads = Self.carry }
        case OperationCode.incR8.rawValue...OperationCode.decM64.rawValue:
            writes = Self.all & ~Self.carry
        case OperationCode.negR8.rawValue...OperationCode.negM64.rawValue: writes = Self.all
        case OperationCode.shlRI32.rawValue...OperationCode.sarRC64.rawValue:
            // By CL, zero leaves all as they are.
            let isImmediate = (code - OperationCode.shlRI32.rawValue) & 3 < 2
            if isImmediate && op.immediate != 0 { writes = Self.all }
        case OperationCode.rolRI32.rawValue...OperationCode.rorRC64.rawValue:
            let isImmediate = (code - OperationCode.rolRI32.rawValue) & 3 < 2
            if isImmediate && op.immediate != 0 { writes = Self.carry | Self.overflow }
        case OperationCode.imulRR32.rawValue...OperationCode.mulM64.rawValue: writes = Self.all
        case OperationCode.btRR32.rawValue...OperationCode.btRI64.rawValue: writes = Self.carry
        case OperationCode.jo.rawValue...OperationCode.jg.rawValue:
            reads = Self.condition(UInt8(code - OperationCode.jo.rawValue))
        case OperationCode.seto.rawValue...OperationCode.setg.rawValue:
            reads = Self.condition(UInt8(code - OperationCode.seto.rawValue))
        case OperationCode.cmovoRR32.rawValue...OperationCode.cmovgRR64.rawValue:
            reads = Self.condition(UInt8((code - OperationCode.cmovoRR32.rawValue) & 15))
        case OperationCode.leaf.rawValue:
            guard let leaf = op.leaf, leaf.isNative else {
                reads = Self.all
                break
            }
            if leaf.flags.contains(.flags) { writes = Self.all }
            if leaf.readsFlags { reads = Self.all }
        case OperationCode.general.rawValue: self = Self(general: op)
        case OperationCode.stop.rawValue, OperationCode.enableInterrupts.rawValue,
            OperationCode.transfer.rawValue...:
            reads = Self.all
        default: break
        }
    }
    /// Of an operation of code `general`.
    private init(general op: OperationPointer) {
        switch GeneralOperation(rawValue: op.detail) {
        case .shift: self = Self(shift: op)
        case .shld, .shrd:
            let isDone = op.form.contains(.immediateSource) && op.maskedCount != 0
            self.init(writes: isDone ? Self.all : 0)
        case .imul1, .imul2, .mul, .popcnt, .tzcnt, .lzcnt, .cmpxchg, .xadd:
            self.init(writes: Self.all)
        case .div, .idiv, .crc32, .movbe, .xchg, .movzx, .movsx, .cbw, .cwd, .movFromSegment,
            .movFromControl, .swapgs, .cli, .cld:
            self.init()
        case .bt, .bts, .btr, .btc, .clc, .stc: self.init(writes: Self.carry)
        case .cmc: self.init(reads: Self.carry, writes: Self.carry)
        case .bsf, .bsr, .cmpxchg8b, .cmpxchg16b: self.init(writes: Self.zero)
        case .alu:
            let isWithCarry =
                op.destination == ALUOperation.adc.rawValue
                || op.destination == ALUOperation.sbb.rawValue
            self.init(reads: isWithCarry ? Self.carry : 0, writes: Self.all)
        case .unary:
            switch UnaryOperation(rawValue: op.destination) {
            case .not?: self.init()
            case .neg?: self.init(writes: Self.all)
            default: self.init(writes: Self.all & ~Self.carry)
            }
        case .cmov: self.init(reads: Self.condition(UInt8(truncatingIfNeeded: op.immediate)))
        case .setcc: self.init(reads: Self.condition(op.source))
        case .lahf: self.init(reads: Self.all & ~Self.overflow)
        case .sahf: self.init(writes: Self.all & ~Self.overflow)
        default: self.init(reads: Self.all)
        }
    }

    /// By CL, and through the carry, all may stay as they are.
    private init(shift op: OperationPointer) {
        let isImmediate = op.form.contains(.immediateSource) && op.maskedCount != 0
        switch ShiftOperation(rawValue: op.source) {
        case .rol?, .ror?: self.init(writes: isImmediate ? Self.carry | Self.overflow : 0)
        case .rcl?, .rcr?: self.init(reads: Self.carry)
        default: self.init(writes: isImmediate ? Self.all : 0)
        }
    }
}

extension OperationPointer {
    /// The count of a shift by an immediate.
    fileprivate var maskedCount: Int64 { immediate & (size == 8 ? 63 : 31) }
}
