internal import TCGDecoder

// Instructions with VEX run as they are, as those of SSE do: the upper halves of the guest's YMM
// registers are the host's from the first block that needs them until translated code is left, or
// the guest executes VZEROUPPER. ANDN and its like need no vector registers at all.

extension HostBlock {
    mutating func emitVEX(
        _ op: OperationPointer, _ leaf: LeafDescriptor, _ instruction: Instruction, _ use: FlagUse
    ) -> Bool {
        switch leaf.kind {
        case .vexGeneral: return emitVEXGeneral(op, leaf, instruction, use)
        case .zeroUpper:
            copyBytes(op)
            if leaf.size == 16 && !usesAVXLater { forgetUpperHalves() }
            return true
        default: return emitVEXVector(op, leaf, instruction, use)
        }
    }

    private var usesAVXLater: Bool {
        for later in index + 1..<max(index + 1, operationCount)
        where operation(later).leaf?.flags.contains(.avx) == true { return true }
        return false
    }

    /// All of them are zero, and need not be saved.
    private mutating func forgetUpperHalves() {
        code.memory(0xC7, size: 4, reg: 0, HostState.hasUpperHalves)
        code.word(0)
        code.memory(0xC6, size: 1, reg: 0, HostFrame.slot(HostFrame.upperVectors))
        code.byte(0)
    }

    private mutating func emitVEXVector(
        _ op: OperationPointer, _ leaf: LeafDescriptor, _ instruction: Instruction, _ use: FlagUse
    ) -> Bool {
        let (first, second) = (HostRegister.first, HostRegister.second)
        let inputs = leaf.vex.inputs
        let vvvv =
            inputs.contains(.vvvv) || leaf.vex.result == .vvvv ? op.detail & 15 : 0
        let fourth = inputs.contains(.fourth) ? op.detail >> 4 : nil
        guard instruction.isRegisterForm else {
            guard canAddress(op) else { return false }
            access(
                op, size: UInt8(leaf.memorySize), isWrite: op.form.contains(.memoryDestination),
                isAligned: leaf.flags.contains(.aligned))
            let isGeneral = leaf.vex.result == .generalReg
            let register = isGeneral ? target(op.destination, second) : op.destination
            prepareFlags(use)
            code.vex(
                instruction, reg: register, vvvv: vvvv, .memory(operand),
                fourth: fourth)
            if isGeneral { store(op.destination, second) }
            resume()
            return true
        }
        switch leaf.vex.result {
        case .generalReg:
            let host = target(op.destination, first)
            prepareFlags(use)
            code.vex(instruction, reg: host, vvvv: vvvv, .register(op.source))
            store(op.destination, first)
        case .generalRM:
            let host = target(op.source, first)
            prepareFlags(use)
            code.vex(instruction, reg: op.destination, vvvv: vvvv, .register(host))
            store(op.source, first)
        default:
            guard inputs.contains(.general) else {
                prepareFlags(use)
                copyBytes(op)
                break
            }
            let host = source(op.source, first)
            prepareFlags(use)
            code.vex(instruction, reg: op.destination, vvvv: vvvv, .register(host))
        }
        return true
    }

    /// The source in ModRM.rm is in R9 if it is in memory, and results in R10: sources are read
    /// before. MULX's lower half, in VEX.vvvv, takes R9's place.
    private mutating func emitVEXGeneral(
        _ op: OperationPointer, _ leaf: LeafDescriptor, _ instruction: Instruction, _ use: FlagUse
    ) -> Bool {
        let (first, second) = (HostRegister.first, HostRegister.second)
        let isMemory = !instruction.isRegisterForm
        if isMemory {
            guard canAddress(op) else { return false }
            access(op, size: leaf.size, isWrite: false)
        }
        let rm = isMemory ? first : source(op.source, first)
        let number = op.detail & 15
        var vvvv: UInt8 = 0
        switch leaf.vex.result {
        case .vvvv: vvvv = target(number, first)
        case .none: vvvv = target(number, second)
        default: if instruction.mnemonic != .rorx { vvvv = source(number, second) }
        }
        let isGroup = leaf.vex.result == .none
        prepareFlags(use)
        code.vex(
            instruction, reg: isGroup ? instruction.modRMReg : target(op.destination, second),
            vvvv: vvvv, isMemory ? .memory(operand) : .register(rm))
        if leaf.vex.result == .vvvv { store(number, first) }
        store(isGroup ? number : op.destination, second)
        resume()
        return true
    }
}
