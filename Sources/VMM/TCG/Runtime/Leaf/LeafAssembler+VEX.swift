internal import TCGDecoder

// Instructions with VEX. Their stubs are `void stub(VectorFrame *frame)`: all that they use and make
// is in the frame, and the guest's `vpaddd ymm9, ymm3, [rbx]` runs as `vpaddd ymm1, ymm2, [rdi+128]`.

extension LeafAssembler {
    private enum Slot {
        static let reg: UInt8 = 1
        static let vvvv: UInt8 = 2
        static let rm: UInt8 = 3
        static let fourth: UInt8 = 4
    }

    mutating func vex(
        _ instruction: Instruction, _ descriptor: LeafDescriptor, hasImmediate: Bool
    ) {
        let flags = descriptor.flags
        let instruction = flags.contains(.aligned) ? instruction.unaligned : instruction
        emit(0xC5, 0xFC, 0x10, 0x4F, 0x40)  // vmovups ymm1, [rdi + 64]
        emit(0xC5, 0xFC, 0x10, 0x57, 0x60)  // vmovups ymm2, [rdi + 96]
        emit(0xC5, 0xFC, 0x10, 0x9F, 0x80, 0, 0, 0)  // vmovups ymm3, [rdi + 128]
        emit(0xC5, 0xFC, 0x10, 0xA7, 0xA0, 0, 0, 0)  // vmovups ymm4, [rdi + 160]
        emit(0x48, 0x8B, 0x47, 0x18)  // mov rax, [rdi + 24]
        emit(0x48, 0x8B, 0x57, 0x20)  // mov rdx, [rdi + 32]
        if flags.contains(.mxcsr) { emit(0x0F, 0xAE, 0x17) }  // ldmxcsr [rdi]
        vexOperation(
            instruction, reg: Slot.reg, vvvv: Slot.vvvv, rm: Slot.rm, hasImmediate: hasImmediate)
        if flags.contains(.flags) { emit(0x9C, 0x5A, 0x48, 0x89, 0x57, 0x10) }  // pushf; [rdi + 16]
        if flags.contains(.mxcsr) {
            emit(0x0F, 0xAE, 0x5F, 0x04)  // stmxcsr [rdi + 4]
            emit(0x0F, 0xAE, 0x57, 0x08)  // ldmxcsr [rdi + 8]
        }
        switch descriptor.vex.result {
        case .none, .memory: break
        case .reg: emit(0xC5, 0xFC, 0x11, 0x4F, 0x40)
        case .vvvv: emit(0xC5, 0xFC, 0x11, 0x57, 0x60)
        case .rm: emit(0xC5, 0xFC, 0x11, 0x9F, 0x80, 0, 0, 0)
        case .first: emit(0xC5, 0xFC, 0x11, 0x87, 0xA0, 0, 0, 0)
        case .generalReg, .generalRM: emit(0x48, 0x89, 0x47, 0x18)  // mov [rdi + 24], rax
        case .count: emit(0x48, 0x89, 0x4F, 0x28)  // mov [rdi + 40], rcx
        }
        emit(0xC5, 0xF8, 0x77, 0xC3)  // vzeroupper; ret
    }

    /// ModRM.reg is RAX, VEX.vvvv R8, ModRM.rm R9 or memory; MULX has RDX too.
    mutating func vexGeneral(_ instruction: Instruction, hasImmediate: Bool) {
        emit(0x4C, 0x8B, 0x47, 0x60)  // mov r8, [rdi + 96]
        emit(0x4C, 0x8B, 0x8F, 0x80, 0, 0, 0)  // mov r9, [rdi + 128]
        emit(0x48, 0x8B, 0x57, 0x20)  // mov rdx, [rdi + 32]
        vexOperation(instruction, reg: 0, vvvv: 8, rm: 9, hasImmediate: hasImmediate)
        emit(0x9C, 0x5A, 0x48, 0x89, 0x57, 0x10)  // pushf; pop rdx; mov [rdi + 16], rdx
        emit(0x48, 0x89, 0x47, 0x40)  // mov [rdi + 64], rax
        emit(0x4C, 0x89, 0x47, 0x60)  // mov [rdi + 96], r8
        emit(0xC3)
    }

    /// The guest's instruction with other registers, and with [RDI + 128] as its memory. General
    /// registers among vector registers become RAX.
    private mutating func vexOperation(
        _ instruction: Instruction, reg: UInt8, vvvv: UInt8, rm: UInt8, hasImmediate: Bool
    ) {
        var (reg, rm) = (reg, rm)
        var hasVvvv = false
        var hasFourth = false
        var hasGeneral = false
        var isGroup = true
        for index in 0..<Int(instruction.operandCount) {
            let operand = instruction.operands[index]
            let isGeneral = operand.kind == .general
            if isGeneral { hasGeneral = true }
            switch operand.place {
            case .reg:
                isGroup = false
                if isGeneral { reg = 0 }
            case .rm: if isGeneral && rm < 8 { rm = 0 }
            case .vvvv: hasVvvv = true
            case .immediate: hasFourth = true
            case .other: break
            }
        }
        let isMemory = !instruction.isRegisterForm
        // Outside 64-bit mode W says nothing about general registers, and memory in their place.
        switch (instruction.map, instruction.opcode) {
        case (1, 0x2A), (1, 0x6E), (1, 0x7E), (3, 0x16), (3, 0x22): hasGeneral = true
        default: break
        }
        let isWide =
            instruction.vectorW && (instruction.mode == .bits64 || !hasGeneral)
        emit(0xC4, (isMemory || rm < 8 ? 0xE0 : 0xC0) | instruction.map)
        emit(
            (isWide ? 0x80 : 0) | (hasVvvv ? ~vvvv & 15 : 15) << 3
                | (instruction.vectorLength == 32 ? 4 : 0) | instruction.vexPrefix,
            instruction.opcode)
        let first = (isGroup ? instruction.modRMReg : reg) << 3
        if isMemory {
            emit(0x87 | first, 0x80, 0, 0, 0)
        } else {
            emit(0xC0 | first | rm & 7)
        }
        if hasImmediate { emit(UInt8(truncatingIfNeeded: instruction.immediate)) }
        if hasFourth { emit(Slot.fourth << 4) }
    }
}

extension Instruction {
    /// The same of a move that wants memory to be aligned, which a frame need not be to 32 bytes.
    fileprivate var unaligned: Instruction {
        var result = self
        let isLoad =
            switch (map, opcode) {
            case (1, 0x28), (1, 0x6F), (2, 0x2A): true
            default: false
            }
        result.map = 1
        result.mandatoryPrefix = 0
        result.opcode = isLoad ? 0x10 : 0x11  // VMOVUPS
        return result
    }
}
