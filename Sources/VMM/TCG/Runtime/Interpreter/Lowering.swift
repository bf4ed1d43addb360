internal import TCGDecoder

/// How a block goes on after an operation.
enum LoweredFlow {
    case continues
    case ends
    /// Ends, with a direct branch to this RIP.
    case branches(UInt64)
}

/// Turns decoded instructions into operations for one mode.
///
/// Where an instruction and its operands have an operation code of their own, that is used; the
/// rest become `general`, `transfer` and `string` operations with the same fields.
struct Lowering {
    /// The block's `ModeKey`.
    let key: UInt32
    /// No other CPU runs: LOCK has no effect.
    let isOnlyCPU: Bool
    let model: CPUModel
    /// CS's limit; all ones in 64-bit code. A branch beyond it faults itself.
    let codeLimit: UInt64

    var is64: Bool { key & ModeKey.codeSize == 8 }
    var isProtected: Bool { key & ModeKey.protected != 0 }

    /// The operation for `instruction`, whose successor is at `nextRIP`.
    func lower(
        _ instruction: Instruction, nextRIP: UInt64
    ) -> (operation: Operation, flow: LoweredFlow) {
        var op = Operation(.undefined)
        var flow = LoweredFlow.continues
        op.length = instruction.length
        op.size = instruction.operandSize
        setAddress(&op, instruction, nextRIP: nextRIP)
        if instruction.operands[0].kind == .relative { op.form.insert(.relativeImmediate) }
        let isKnown =
            isAvailable(instruction)
            && (lowerArithmetic(instruction, &op) || lowerMove(instruction, &op)
                || lowerString(instruction, &op)
                || lowerControl(instruction, &op, &flow, nextRIP: nextRIP)
                || lowerSystem(instruction, &op, &flow) || lowerLeaf(instruction, &op))
        if !isKnown { op.code = .undefined }
        switch op.code {
        case .undefined, .transfer: if case .continues = flow { flow = .ends }
        default: break
        }
        return (op, flow)
    }

    private func isAvailable(_ instruction: Instruction) -> Bool {
        // Outside protected mode VEX is undefined.
        if instruction.encoding == .vex { return isProtected && model.supports(instruction) }
        guard instruction.encoding == .legacy else { return false }
        switch instruction.mnemonic {
        // Without their features these are BSF and BSR with a superfluous prefix. Hypercalls are
        // advertised in their own way.
        case .tzcnt, .lzcnt, .vmcall, .vmmcall: return true
        // Hints that older processors ignore.
        case .prefetch, .rdssp: return true
        // They raise #UD without CR4.OSXSAVE, which models without them do not offer; but another
        // provider's guests have it.
        case .xgetbv, .xsetbv, .xsave, .xsaveopt, .xsavec, .xrstor: return true
        default: return model.supports(instruction)
        }
    }

    // MARK: Operands

    private func setAddress(
        _ op: inout Operation, _ instruction: Instruction, nextRIP: UInt64
    ) {
        let memory = instruction.memory
        op.segment = memory.segment
        op.displacement = memory.displacement
        op.index = memory.index & 31
        op.scale = UInt8(truncatingIfNeeded: memory.scale.trailingZeroBitCount & 3)
        if memory.base == MemoryOperand.instructionPointer {
            op.base = Register.none
            op.displacement = Int64(bitPattern: nextRIP) &+ memory.displacement
            op.form.insert(.relativeDisplacement)
        } else {
            op.base = memory.base
        }
        if op.index > Register.none || memory.hasVectorIndex { op.index = Register.none }
        let hasBase = memory.segment >= SegmentRegister.fs
        switch instruction.addressSize {
        case 8: op.addressKind = hasBase ? .segment64 : .flat64
        case 4 where is64: op.addressKind = .address32In64
        case 4:
            op.addressKind = key & ModeKey.flat != 0 && !hasBase ? .flat32 : .checked32
        default: op.addressKind = .checked16
        }
    }

    /// The register number as operations have it.
    func number(_ operand: Operand) -> UInt8 {
        switch operand.kind {
        case .generalHigh: operand.register &* 8 &+ 1
        case .general where operand.size == 1: operand.register &* 8
        default: operand.register
        }
    }

    /// Where a code for the operand size is in a row of four or, from 32 bits on, of two.
    func sizeIndex(_ size: UInt8) -> Int { size.trailingZeroBitCount & 3 }

    /// Where the code for the operands and their size is in a row of twenty (see OperationCode).
    func formIndex(_ instruction: Instruction) -> Int {
        let form: Int
        switch (instruction.operands[0].kind, instruction.operands[1].kind) {
        case (.memory, .immediate): form = 4
        case (.memory, _): form = 3
        case (_, .memory): form = 2
        case (_, .immediate): form = 1
        default: form = 0
        }
        return form * 4 + sizeIndex(instruction.operandSize)
    }

    /// A `general` operation with a destination (register or memory) and a source (also
    /// immediate), as far as there are any.
    func setOperands(
        _ op: inout Operation, _ instruction: Instruction, _ operation: GeneralOperation
    ) {
        op.code = .general
        op.detail = operation.rawValue
        setOperands(&op, instruction)
    }

    func setOperands(_ op: inout Operation, _ instruction: Instruction) {
        if instruction.operandCount > 0 {
            let destination = instruction.operands[0]
            if destination.kind == .memory {
                op.form.insert(.memoryDestination)
            } else {
                op.destination = number(destination)
            }
        }
        if instruction.operandCount > 1 { setSource(&op, instruction, instruction.operands[1]) }
        let isLocked = instruction.prefixes.contains(.lock) || instruction.mnemonic == .xchg
        let isMemory = instruction.operands[0].kind == .memory
        if isLocked && isMemory && !isOnlyCPU { op.form.insert(.locked) }
    }

    func setSource(_ op: inout Operation, _ instruction: Instruction, _ source: Operand) {
        switch source.kind {
        case .memory: op.form.insert(.memorySource)
        case .immediate, .relative:
            op.form.insert(.immediateSource)
            op.immediate = instruction.immediate
        default: op.source = number(source)
        }
    }

    /// The only operand is a source (or both).
    func setOnlySource(
        _ op: inout Operation, _ instruction: Instruction, _ operation: GeneralOperation
    ) {
        op.code = .general
        op.detail = operation.rawValue
        setSource(&op, instruction, instruction.operands[0])
    }

    func general(_ op: inout Operation, _ operation: GeneralOperation) {
        op.code = .general
        op.detail = operation.rawValue
    }

    func transfer(_ op: inout Operation, _ operation: TransferOperation) {
        op.code = .transfer
        op.detail = operation.rawValue
    }

    private func lowerLeaf(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        guard let leaf = LeafLibrary.shared.lower(instruction) else { return false }
        op.code = .leaf
        op.destination = leaf.destination
        op.source = leaf.source
        op.detail = leaf.others
        // SAFETY: descriptors are never freed.
        op.immediate = Int64(UInt(bitPattern: unsafe leaf.descriptor))
        let descriptor = unsafe leaf.descriptor.pointee
        if descriptor.flags.contains(.memory) {
            op.form.insert(descriptor.isStore ? .memoryDestination : .memorySource)
        }
        return true
    }
}
