internal import TCGDecoder

// Instructions with VEX.

extension LeafClassifier {
    func vex() -> LeafDescriptor? {
        let isGeneral = instruction.feature == .bmi1 || instruction.feature == .bmi2
        if isGeneral { return vexGeneral() }
        switch (instruction.map, instruction.opcode) {
        case (1, 0x77):
            return LeafDescriptor(kind: .zeroUpper, size: instruction.vectorLength, flags: .avx)
        case (1, 0xAE):
            let isLoad = instruction.modRMReg == 2
            return LeafDescriptor(kind: isLoad ? .ldmxcsr : .stmxcsr, flags: [.avx, .memory])
        case (1, 0xF7):
            var descriptor = LeafDescriptor(kind: .maskedStore, flags: .avx)
            descriptor.offset = instruction.memory.segment
            descriptor.generalSize = instruction.addressSize
            return descriptor
        case (2, 0x2C...0x2F), (2, 0x8C), (2, 0x8E): return maskedMove()
        case (2, 0x90...0x93): return gather()
        default: return vexVector()
        }
    }

    private func vexGeneral() -> LeafDescriptor {
        var descriptor = LeafDescriptor(kind: .vexGeneral, flags: [])
        descriptor.size = memorySize
        if memoryIndex != nil { descriptor.flags.insert(.memory) }
        descriptor.generalSize = operand(0).size
        switch instruction.mnemonic {
        case .andn, .bextr, .blsi, .blsmsk, .blsr, .bzhi: descriptor.flags.insert(.flags)
        default: break
        }
        switch instruction.mnemonic {
        case .mulx: descriptor.vex.result = .vvvv
        case .blsi, .blsmsk, .blsr: descriptor.vex.result = .none
        default: descriptor.vex.result = .generalReg
        }
        return descriptor
    }

    private func maskedMove() -> LeafDescriptor {
        var descriptor = LeafDescriptor(kind: .maskedMove, flags: [.avx, .memory])
        descriptor.size = instruction.vectorLength
        let isWide =
            instruction.opcode >= 0x8C ? instruction.vectorW : instruction.opcode & 1 != 0
        descriptor.generalSize = isWide ? 8 : 4
        if memoryIndex == 0 { descriptor.flags.insert(.writesMemory) }
        return descriptor
    }

    private func gather() -> LeafDescriptor {
        var descriptor = LeafDescriptor(kind: .gather, flags: [.avx, .memory])
        descriptor.size = instruction.vectorW ? 8 : 4
        descriptor.generalSize = instruction.opcode & 1 != 0 ? 8 : 4
        descriptor.offset =
            instruction.vectorLength / max(descriptor.size, descriptor.generalSize)
        return descriptor
    }

    private func vexVector() -> LeafDescriptor? {
        var descriptor = LeafDescriptor(kind: .vex, flags: .avx)
        descriptor.size = memorySize
        if memoryIndex != nil { descriptor.flags.insert(.memory) }
        if usesMXCSR || usesMXCSRWithVEX { descriptor.flags.insert(.mxcsr) }
        if isAlignedMove { descriptor.flags.insert(.aligned) }
        for index in 0..<Int(instruction.operandCount) {
            let operand = operand(index)
            switch (operand.kind, operand.place) {
            case (.vector, .reg): descriptor.vex.inputs.insert(.reg)
            case (.vector, .rm): descriptor.vex.inputs.insert(.rm)
            case (.vector, .vvvv): descriptor.vex.inputs.insert(.vvvv)
            case (.vector, .immediate): descriptor.vex.inputs.insert(.fourth)
            case (.general, .rm): descriptor.vex.inputs.insert(.general)
            case (.memory, _): if index != 0 { descriptor.vex.inputs.insert(.memory) }
            default: break
            }
        }
        if let special = special() {
            descriptor.flags.insert(.flags)
            descriptor.vex.result = special
            if special != .none { descriptor.vex.inputs.insert(.lengths) }
            return descriptor
        }
        switch (operand(0).kind, operand(0).place) {
        case (.vector, .reg): descriptor.vex.result = .reg
        case (.vector, .rm): descriptor.vex.result = .rm
        case (.vector, .vvvv): descriptor.vex.result = .vvvv
        case (.general, .reg): descriptor.vex.result = .generalReg
        case (.general, .rm): descriptor.vex.result = .generalRM
        case (.memory, _):
            descriptor.vex.result = .memory
            descriptor.flags.insert(.writesMemory)
        default: return nil
        }
        descriptor.generalSize = operand(0).size == 8 ? 8 : 4
        return descriptor
    }

    /// Instructions whose result is the flags, or a register that is not named.
    private func special() -> VEXOperands.Result? {
        switch (instruction.map, instruction.opcode) {
        // VUCOMISS, VCOMISS...; VTESTPS, VTESTPD, VPTEST.
        case (1, 0x2E...0x2F), (2, 0x0E...0x0F), (2, 0x17): VEXOperands.Result.none
        case (3, 0x60), (3, 0x62): .first
        case (3, 0x61), (3, 0x63): .count
        default: nil
        }
    }

    /// FMA and F16C.
    private var usesMXCSRWithVEX: Bool {
        switch (instruction.map, instruction.opcode) {
        case (2, 0x13), (2, 0x96...0x9F), (2, 0xA6...0xAF), (2, 0xB6...0xBF), (3, 0x1D): true
        default: false
        }
    }

    /// VMOVAPS, VMOVDQA and what bypasses the caches (SDM volume 1, section 14.9).
    private var isAlignedMove: Bool {
        guard memoryIndex != nil else { return false }
        switch (instruction.map, instruction.opcode) {
        case (1, 0x28...0x29), (1, 0x2B), (1, 0xE7): return true
        case (1, 0x6F), (1, 0x7F): return instruction.mandatoryPrefix == 0x66
        case (2, 0x2A): return true
        default: return false
        }
    }
}
