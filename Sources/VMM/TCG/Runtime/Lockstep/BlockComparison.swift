/// What can be compared of a block.
struct BlockComparison {
    /// The block does nothing but to change registers and memory, as far as can be seen, and what it
    /// leaves there is defined.
    private(set) var isPossible = true
    /// Arithmetic flags that have no defined values behind the block (SDM volume 2): what the
    /// interpreter has chosen for them need not be what this host's processor does.
    private(set) var undefinedFlags: UInt64 = 0

    private static let most = RFLAGS.of | RFLAGS.sf | RFLAGS.af | RFLAGS.pf

    init(_ block: Block) {
        var op = block.operations
        // SAFETY: as many as the header says.
        for _ in 0..<(unsafe block.header.pointee.operationCount) {
            add(op)
            op = op.next
        }
    }

    /// As a block's header keeps it.
    init(_ word: UInt16) {
        undefinedFlags = UInt64(word) & RFLAGS.arithmetic
        isPossible = word & Self.possible != 0
    }

    static let known: UInt16 = 1 << 15
    private static let possible: UInt16 = 1 << 14

    var word: UInt16 {
        Self.known | (isPossible ? Self.possible : 0) | UInt16(undefinedFlags)
    }

    private mutating func add(_ op: OperationPointer) {
        let writes = FlagUse(op).writes
        undefinedFlags &= ~Self.flags(writes)
        let code = op.code.rawValue
        switch code {
        case OperationCode.shlRI32.rawValue...OperationCode.rorRC64.rawValue:
            let isImmediate = (code - OperationCode.shlRI32.rawValue) & 3 < 2
            if isImmediate && op.immediate == 0 { return }
            undefinedFlags |= RFLAGS.of
            if code < OperationCode.rolRI32.rawValue { undefinedFlags |= RFLAGS.af }
        case OperationCode.imulRR32.rawValue...OperationCode.mulM64.rawValue:
            undefinedFlags |= Self.most & ~RFLAGS.of | RFLAGS.zf
        case OperationCode.btRR32.rawValue...OperationCode.btRI64.rawValue:
            undefinedFlags |= Self.most
        case OperationCode.general.rawValue: add(general: op)
        case OperationCode.leaf.rawValue:
            if let leaf = op.leaf, leaf.kind == .vexGeneral { undefinedFlags |= Self.most }
        case OperationCode.transfer.rawValue: add(transfer: op)
        default: break
        }
    }

    private mutating func add(general op: OperationPointer) {
        switch GeneralOperation(rawValue: op.detail) {
        case .shift: undefinedFlags |= RFLAGS.of | RFLAGS.af | RFLAGS.cf
        case .shld, .shrd, .div, .idiv: undefinedFlags |= RFLAGS.arithmetic
        case .imul1, .imul2, .mul: undefinedFlags |= Self.most & ~RFLAGS.of | RFLAGS.zf
        case .bt, .bts, .btr, .btc, .tzcnt, .lzcnt: undefinedFlags |= Self.most
        case .bsf, .bsr: undefinedFlags |= Self.most | RFLAGS.cf
        case .rdmsr: isPossible = false
        case .pushf, .lahf: if undefinedFlags != 0 { isPossible = false }
        default: break
        }
    }

    private mutating func add(transfer op: OperationPointer) {
        switch TransferOperation(rawValue: op.detail) {
        case .movToControl, .wrmsr, .rdtsc, .hypercall, .inPort, .outPort, .ins, .outs:
            isPossible = false
        case .int, .int1, .int3, .into, .syscall: if undefinedFlags != 0 { isPossible = false }
        default: break
        }
    }

    /// From `FlagUse` to RFLAGS.
    private static func flags(_ set: UInt8) -> UInt64 {
        var flags: UInt64 = 0
        if set & FlagUse.carry != 0 { flags |= RFLAGS.cf }
        if set & FlagUse.parity != 0 { flags |= RFLAGS.pf }
        if set & FlagUse.adjust != 0 { flags |= RFLAGS.af }
        if set & FlagUse.zero != 0 { flags |= RFLAGS.zf }
        if set & FlagUse.sign != 0 { flags |= RFLAGS.sf }
        if set & FlagUse.overflow != 0 { flags |= RFLAGS.of }
        return flags
    }
}

extension Block {
    /// What can be compared, found out once.
    var comparison: BlockComparison {
        let word = unsafe header.pointee.comparison
        if word & BlockComparison.known != 0 { return BlockComparison(word) }
        let comparison = BlockComparison(self)
        unsafe header.pointee.comparison = comparison.word
        return comparison
    }
}
