internal import TCGDecoder

extension Lowering {
    func lowerArithmetic(_ instruction: Instruction, _ op: inout Operation) -> Bool {
        switch instruction.mnemonic {
        case .add: return lowerALU(instruction, &op, .addRR8, .add)
        case .or: return lowerALU(instruction, &op, .orRR8, .or)
        case .adc: return lowerALU(instruction, &op, .adcRR8, .adc)
        case .sbb: return lowerALU(instruction, &op, .sbbRR8, .sbb)
        case .and: return lowerALU(instruction, &op, .andRR8, .and)
        case .sub: return lowerALU(instruction, &op, .subRR8, .sub)
        case .xor: return lowerALU(instruction, &op, .xorRR8, .xor)
        case .cmp: return lowerALU(instruction, &op, .cmpRR8, .cmp)
        case .test: return lowerALU(instruction, &op, .testRR8, .test)
        case .inc: return lowerUnary(instruction, &op, .incR8, .inc)
        case .dec: return lowerUnary(instruction, &op, .decR8, .dec)
        case .not: return lowerUnary(instruction, &op, .notR8, .not)
        case .neg: return lowerUnary(instruction, &op, .negR8, .neg)
        case .rol: return lowerShift(instruction, &op, .rolRI32, .rol)
        case .ror: return lowerShift(instruction, &op, .rorRI32, .ror)
        case .rcl: return lowerShift(instruction, &op, nil, .rcl)
        case .rcr: return lowerShift(instruction, &op, nil, .rcr)
        case .shl: return lowerShift(instruction, &op, .shlRI32, .shl)
        case .shr: return lowerShift(instruction, &op, .shrRI32, .shr)
        case .sar: return lowerShift(instruction, &op, .sarRI32, .sar)
        default: return lowerOtherArithmetic(instruction, &op)
        }
    }

    /// `first` is the code for 8-bit registers; the other forms follow.
    private func lowerALU(
        _ instruction: Instruction, _ op: inout Operation, _ first: OperationCode,
        _ operation: ALUOperation
    ) -> Bool {
        setOperands(&op, instruction)
        if op.form.contains(.locked) {
            op.code = .general
            op.detail = GeneralOperation.alu.rawValue
            op.destination = operation.rawValue
            return true
        }
        op.code = first.advanced(by: formIndex(instruction))
        return true
    }

    private func lowerUnary(
        _ instruction: Instruction, _ op: inout Operation, _ first: OperationCode,
        _ operation: UnaryOperation
    ) -> Bool {
        setOperands(&op, instruction)
        if op.form.contains(.locked) {
            op.code = .general
            op.detail = GeneralOperation.unary.rawValue
            op.destination = operation.rawValue
            return true
        }
        let form = op.form.contains(.memoryDestination) ? 4 : 0
        op.code = first.advanced(by: form + sizeIndex(instruction.operandSize))
        return true
    }

    /// `first` is the code for 32-bit registers shifted by an immediate.
    private func lowerShift(
        _ instruction: Instruction, _ op: inout Operation, _ first: OperationCode?,
        _ operation: ShiftOperation
    ) -> Bool {
        setOperands(&op, instruction, .shift)
        let isImmediate = op.form.contains(.immediateSource)
        if let first, instruction.operandSize >= 4, !op.form.contains(.memoryDestination) {
            op.immediate &= instruction.operandSize == 8 ? 63 : 31
            op.code = first.advanced(
                by: (isImmediate ? 0 : 2) + (instruction.operandSize == 8 ? 1 : 0))
            return true
        }
        op.source = operation.rawValue
        return true
    }

    private func lowerOtherArithmetic(
        _ instruction: Instruction, _ op: inout Operation
    ) -> Bool {
        switch instruction.mnemonic {
        case .shld, .shrd:
            setOperands(&op, instruction, instruction.mnemonic == .shld ? .shld : .shrd)
            if instruction.operands[2].kind == .immediate {
                op.form.insert(.immediateSource)
                op.immediate = instruction.immediate
            }
        case .mul: lowerMultiply(instruction, &op)
        case .imul: lowerSignedMultiply(instruction, &op)
        case .div: setOnlySource(&op, instruction, .div)
        case .idiv: setOnlySource(&op, instruction, .idiv)
        case .bt: lowerBitTest(instruction, &op)
        case .bts: setOperands(&op, instruction, .bts)
        case .btr: setOperands(&op, instruction, .btr)
        case .btc: setOperands(&op, instruction, .btc)
        case .tzcnt where model.supports(.bmi1): setOperands(&op, instruction, .tzcnt)
        case .lzcnt where model.supports(.lzcnt): setOperands(&op, instruction, .lzcnt)
        case .bsf, .tzcnt: setOperands(&op, instruction, .bsf)
        case .bsr, .lzcnt: setOperands(&op, instruction, .bsr)
        case .popcnt: setOperands(&op, instruction, .popcnt)
        case .crc32:
            setOperands(&op, instruction, .crc32)
            op.size = instruction.operands[1].size
        case .cmpxchg: setOperands(&op, instruction, .cmpxchg)
        case .cmpxchg8b:
            setOperands(&op, instruction, .cmpxchg8b)
            op.size = 8
        case .cmpxchg16b: setOperands(&op, instruction, .cmpxchg16b)
        case .xadd: setOperands(&op, instruction, .xadd)
        case .aaa: general(&op, .aaa)
        case .aas: general(&op, .aas)
        case .daa: general(&op, .daa)
        case .das: general(&op, .das)
        case .aad, .aam:
            general(&op, instruction.mnemonic == .aad ? .aad : .aam)
            op.immediate = instruction.immediate
        default: return false
        }
        return true
    }

    private func lowerMultiply(_ instruction: Instruction, _ op: inout Operation) {
        setOnlySource(&op, instruction, .mul)
        guard instruction.operandSize >= 4 else { return }
        let wide = instruction.operandSize == 8 ? 1 : 0
        let first: OperationCode = op.form.contains(.memorySource) ? .mulM32 : .mulR32
        op.code = first.advanced(by: wide)
    }

    private func lowerSignedMultiply(_ instruction: Instruction, _ op: inout Operation) {
        guard instruction.operandCount > 1 else {
            setOnlySource(&op, instruction, .imul1)
            return
        }
        setOperands(&op, instruction, .imul2)
        let hasImmediate = instruction.operandCount > 2
        if hasImmediate {
            op.form.insert(.immediateSource)
            op.immediate = instruction.immediate
        }
        guard instruction.operandSize >= 4 else { return }
        let first: OperationCode
        switch (op.form.contains(.memorySource), hasImmediate) {
        case (false, false): first = .imulRR32
        case (true, false): first = .imulRM32
        case (false, true): first = .imulRRI32
        case (true, true): first = .imulRMI32
        }
        op.code = first.advanced(by: instruction.operandSize == 8 ? 1 : 0)
    }

    private func lowerBitTest(_ instruction: Instruction, _ op: inout Operation) {
        setOperands(&op, instruction, .bt)
        guard instruction.operandSize >= 4, !op.form.contains(.memoryDestination) else { return }
        let first: OperationCode = op.form.contains(.immediateSource) ? .btRI32 : .btRR32
        op.code = first.advanced(by: instruction.operandSize == 8 ? 1 : 0)
    }
}
