internal import TCGDecoder

extension Lowering {
    func lowerMove(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        switch instruction.mnemonic {
        case .mov: return lowerMov(instruction, &op)
        case .movnti:
            setOperands(&op, instruction)
            op.code = instruction.operands[0].size == 8 ? .movMR64 : .movMR32
        case .lea: lowerLEA(instruction, &op)
        case .movbe: setOperands(&op, instruction, .movbe)
        case .movzx, .movsx, .movsxd: lowerExtension(instruction, &op)
        case .xchg: lowerExchange(instruction, &op)
        case .cmovcc: lowerConditionalMove(instruction, &op)
        case .setcc:
            setOperands(&op, instruction, .setcc)
            op.source = instruction.condition
            if !op.form.contains(.memoryDestination) {
                op.code = OperationCode.seto.advanced(by: Int(instruction.condition))
            }
        case .cbw:
            switch instruction.operandSize {
            case 2: general(&op, .cbw)
            case 4: op.code = .cwde
            default: op.code = .cdqe
            }
        case .cwd:
            switch instruction.operandSize {
            case 2: general(&op, .cwd)
            case 4: op.code = .cdq
            default: op.code = .cqo
            }
        case .bswap:
            setOperands(&op, instruction, .bswap16)
            if instruction.operandSize >= 4 {
                op.code = instruction.operandSize == 8 ? .bswap64 : .bswap32
            }
        case .xlat:
            general(&op, .xlat)
            op.displacement = Int64(instruction.addressSize)
        case .nop, .endbr32, .rdssp, .endbr64, .prefetch: op.code = .nop
        default: return lowerStack(instruction, &op) || lowerFlagChange(instruction, &op)
        }
        return true
    }

    private func lowerMov(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        let destination = instruction.operands[0]
        let source = instruction.operands[1]
        switch (destination.kind, source.kind) {
        case (.segment, _):
            transfer(&op, .movToSegment)
            op.destination = destination.register
            setSource(&op, instruction, source)
            return true
        case (_, .segment):
            setOperands(&op, instruction, .movFromSegment)
            return true
        case (.control, _), (.debug, _):
            transfer(&op, destination.kind == .control ? .movToControl : .movToDebug)
            op.destination = destination.register
            op.source = source.register
            return true
        case (_, .control), (_, .debug):
            general(&op, source.kind == .control ? .movFromControl : .movFromDebug)
            op.destination = destination.register
            op.source = source.register
            return true
        default: break
        }
        setOperands(&op, instruction)
        op.code = OperationCode.movRR8.advanced(by: formIndex(instruction))
        return true
    }

    private func lowerLEA(_ instruction: Instruction, _ op: inout Operation) {
        op.destination = instruction.operands[0].register
        let isPlain = instruction.addressSize == 8 || instruction.operandSize <= 4
        switch instruction.operandSize {
        case 4 where isPlain && instruction.addressSize != 2: op.code = .lea32
        case 8 where isPlain: op.code = .lea64
        default: op.code = .leaGeneral
        }
    }

    private func lowerExtension(_ instruction: Instruction, _ op: inout Operation) {
        let source = instruction.operands[1]
        let isSigned = instruction.mnemonic != .movzx
        setOperands(&op, instruction, isSigned ? .movsx : .movzx)
        op.immediate = Int64(source.size)
        let isMemory = op.form.contains(.memorySource)
        let isByte = source.size == 1
        guard instruction.operandSize >= 4 else { return }
        if !isSigned {
            let first: OperationCode = isMemory ? .movzxRM8 : .movzxRR8
            op.code = first.advanced(by: isByte ? 0 : 1)
        } else if instruction.operandSize == 8 {
            let first: OperationCode = isMemory ? .movsx64RM8 : .movsx64RR8
            op.code = first.advanced(by: sizeIndex(source.size))
        } else if source.size < 4 {
            let first: OperationCode = isMemory ? .movsx32RM8 : .movsx32RR8
            op.code = first.advanced(by: isByte ? 0 : 1)
        } else {
            // MOVSXD without REX.W.
            op.code = isMemory ? .movRM32 : .movRR32
        }
    }

    private func lowerExchange(_ instruction: Instruction, _ op: inout Operation) {
        setOperands(&op, instruction, .xchg)
        guard !op.form.contains(.memoryDestination), instruction.operandSize >= 4 else { return }
        op.code = instruction.operandSize == 8 ? .xchgRR64 : .xchgRR32
    }

    private func lowerConditionalMove(_ instruction: Instruction, _ op: inout Operation) {
        setOperands(&op, instruction, .cmov)
        op.immediate = Int64(instruction.condition)
        guard !op.form.contains(.memorySource), instruction.operandSize >= 4 else { return }
        let first: OperationCode =
            instruction.operandSize == 8 ? .cmovoRR64 : .cmovoRR32
        op.code = first.advanced(by: Int(instruction.condition))
    }

    // MARK: Stack

    private func lowerStack(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        let isFast = is64 && instruction.operandSize == 8
        switch instruction.mnemonic {
        case .push:
            let source = instruction.operands[0]
            if source.kind == .segment {
                general(&op, .pushSegment)
                op.source = source.register
                return true
            }
            setOnlySource(&op, instruction, .push)
            if isFast {
                switch source.kind {
                case .memory: op.code = .pushM64
                case .immediate: op.code = .pushI64
                default: op.code = .pushR64
                }
            }
        case .pop:
            let destination = instruction.operands[0]
            if destination.kind == .segment {
                transfer(&op, .popSegment)
                op.destination = destination.register
                return true
            }
            setOperands(&op, instruction, .pop)
            if isFast && destination.kind != .memory { op.code = .popR64 }
        case .pusha: general(&op, .pusha)
        case .popa: general(&op, .popa)
        case .pushf: general(&op, .pushf)
        case .popf: transfer(&op, .popf)
        case .enter:
            general(&op, .enter)
            op.immediate = instruction.immediate
            op.source = UInt8(truncatingIfNeeded: instruction.immediate2)
        case .leave:
            general(&op, .leave)
            if isFast { op.code = .leave64 }
        default: return false
        }
        return true
    }

    private func lowerFlagChange(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        switch instruction.mnemonic {
        case .clc: general(&op, .clc)
        case .stc: general(&op, .stc)
        case .cmc: general(&op, .cmc)
        case .cld: general(&op, .cld)
        case .std: general(&op, .std)
        case .lahf: general(&op, .lahf)
        case .sahf: general(&op, .sahf)
        case .salc: general(&op, .salc)
        case .cli: general(&op, .cli)
        case .sti:
            if is64 && key & ModeKey.user == 0 {
                op.code = .enableInterrupts
            } else {
                transfer(&op, .sti)
            }
        case .stac: general(&op, .stac)
        case .clac: general(&op, .clac)
        default: return false
        }
        return true
    }

    // MARK: Strings

    func lowerString(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        let operation: StringOperation
        switch instruction.mnemonic {
        case .movs: operation = .movs
        case .stos: operation = .stos
        case .lods: operation = .lods
        case .cmps: operation = .cmps
        case .scas: operation = .scas
        case .ins, .outs:
            transfer(&op, instruction.mnemonic == .ins ? .ins : .outs)
            setRepetition(&op, instruction)
            return true
        default: return false
        }
        op.code = .string
        op.detail = operation.rawValue
        setRepetition(&op, instruction)
        return true
    }

    private func setRepetition(_ op: inout Operation, _ instruction: Instruction) {
        if instruction.prefixes.contains(.rep) { op.form.insert(.rep) }
        if instruction.prefixes.contains(.repne) { op.form.insert(.repne) }
        op.displacement = Int64(instruction.addressSize)
    }
}
