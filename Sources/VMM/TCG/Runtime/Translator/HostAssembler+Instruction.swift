internal import TCGDecoder

// Decoded instructions with other operands.
extension HostAssembler {
    /// ModRM.rm of an instruction.
    enum RMOperand {
        case register(UInt8)
        case memory(HostMemory)
    }

    /// A vector instruction.
    mutating func vector(_ instruction: Instruction, reg: UInt8, _ operand: RMOperand) {
        let wide: UInt8 = instruction.prefixes.contains(.rexW) ? 8 : 0
        if instruction.mandatoryPrefix != 0 { byte(instruction.mandatoryPrefix) }
        encode(instruction, rex: wide, reg: reg, operand)
        if instruction.hasImmediate { byte(UInt8(truncatingIfNeeded: instruction.immediate)) }
    }

    /// An integer instruction. One-byte registers are the low ones.
    mutating func integer(
        _ instruction: Instruction, reg: UInt8, _ operand: RMOperand, isLocked: Bool
    ) {
        if isLocked { byte(0xF0) }
        var size = instruction.operandSize
        switch instruction.mnemonic {
        // The first operand's size is the operand size of those that have two.
        case .crc32: size = instruction.operands[1].size == 2 ? 2 : instruction.operands[0].size
        default: break
        }
        if size == 2 { byte(0x66) }
        switch instruction.mnemonic {
        case .popcnt, .tzcnt, .lzcnt: byte(0xF3)
        case .crc32: byte(0xF2)
        default: break
        }
        // A one-byte register needs REX in any case, unless it is AL to BL.
        var rex: UInt8 = instruction.hasByteOperand ? 0x40 : 0
        if size == 8 || instruction.mnemonic == .cmpxchg16b { rex |= 0x48 }
        encode(instruction, rex: rex, reg: reg, operand)
        guard instruction.hasImmediate else { return }
        switch (instruction.map, instruction.opcode) {
        case (0, 0xD0...0xD3): break
        case (0, 0x69), (0, 0x81): immediate(instruction.immediate, size: size)
        default: immediate(instruction.immediate, size: 1)
        }
    }

    /// An instruction with VEX, but for its immediate.
    ///
    /// - Parameter vvvv: 0 also where there is nothing in it.
    mutating func vex(
        map: UInt8, prefix: UInt8, opcode: UInt8, isWide: Bool = false, is256: Bool, reg: UInt8,
        vvvv: UInt8, _ operand: RMOperand
    ) {
        var extensions = (reg >> 3) << 2
        switch operand {
        case .register(let number): extensions |= number >> 3
        case .memory(let memory):
            extensions |= ((memory.index ?? 0) >> 3) << 1 | memory.base >> 3
        }
        byte(0xC4)
        byte(~(extensions << 5) & 0xE0 | map)
        byte((isWide ? 0x80 : 0) | (~vvvv & 15) << 3 | (is256 ? 4 : 0) | prefix)
        byte(opcode)
        switch operand {
        case .register(let number): byte(0xC0 | (reg & 7) << 3 | number & 7)
        case .memory(let memory): self.operand(reg & 7, memory)
        }
    }

    /// The same for one that the guest has, with its immediate.
    ///
    /// - Parameter fourth: the register in the immediate, where there is one.
    mutating func vex(
        _ instruction: Instruction, reg: UInt8, vvvv: UInt8, _ operand: RMOperand,
        fourth: UInt8? = nil
    ) {
        vex(
            map: instruction.map, prefix: instruction.vexPrefix, opcode: instruction.opcode,
            isWide: instruction.vectorW, is256: instruction.vectorLength == 32, reg: reg,
            vvvv: vvvv, operand)
        if let fourth {
            byte(fourth << 4)
        } else if instruction.hasImmediate {
            byte(UInt8(truncatingIfNeeded: instruction.immediate))
        }
    }

    private mutating func encode(
        _ instruction: Instruction, rex bits: UInt8, reg: UInt8, _ operand: RMOperand
    ) {
        var rex = bits | (reg >> 3) << 2
        switch operand {
        case .register(let number): rex |= number >> 3
        case .memory(let memory): rex |= ((memory.index ?? 0) >> 3) << 1 | memory.base >> 3
        }
        if rex != 0 { byte(0x40 | rex) }
        if instruction.map > 0 { byte(0x0F) }
        if instruction.map == 2 { byte(0x38) }
        if instruction.map == 3 { byte(0x3A) }
        byte(instruction.opcode)
        switch operand {
        case .register(let number): byte(0xC0 | (reg & 7) << 3 | number & 7)
        case .memory(let memory): self.operand(reg & 7, memory)
        }
    }
}

extension Instruction {
    fileprivate var hasImmediate: Bool {
        for index in 0..<Int(operandCount) where operands[index].kind == .immediate { return true }
        return false
    }

    fileprivate var hasByteOperand: Bool {
        for index in 0..<Int(operandCount)
        where operands[index].kind == .general && operands[index].size == 1 { return true }
        return false
    }
}
