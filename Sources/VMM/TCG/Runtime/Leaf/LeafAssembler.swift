internal import TCGDecoder

/// Writes the code of leaf stubs.
///
/// A stub is `void stub(void *destination, const void *source, void *fxImage, LeafFrame *frame)`
/// in the System V calling convention: RDI, RSI, RDX, RCX.
struct LeafAssembler {
    private(set) var code: [UInt8] = []

    mutating func emit(_ bytes: UInt8...) { code += bytes }

    /// The guest's instruction with its operands replaced by `modRM`.
    private mutating func emit(
        _ instruction: Instruction, modRM: UInt8, hasImmediate: Bool, rex: UInt8 = 0
    ) {
        if instruction.mandatoryPrefix != 0 { emit(instruction.mandatoryPrefix) }
        let wide: UInt8 = instruction.prefixes.contains(.rexW) ? 0x48 : 0
        if rex | wide != 0 { emit(0x40 | rex | wide) }
        if instruction.map > 0 { emit(0x0F) }
        if instruction.map == 2 { emit(0x38) }
        if instruction.map == 3 { emit(0x3A) }
        emit(instruction.opcode)
        if instruction.hasModRM { emit(modRM) }
        if hasImmediate { emit(UInt8(truncatingIfNeeded: instruction.immediate)) }
    }

    private mutating func loadMXCSR() { emit(0x0F, 0xAE, 0x11) }  // ldmxcsr [rcx]

    private mutating func saveMXCSR() {
        emit(0x0F, 0xAE, 0x59, 0x04)  // stmxcsr [rcx + 4]
        emit(0x0F, 0xAE, 0x51, 0x08)  // ldmxcsr [rcx + 8]
    }

    private mutating func saveFlags() {
        emit(0x9C, 0x58)  // pushfq; pop rax
        emit(0x48, 0x89, 0x41, 0x10)  // mov [rcx + 16], rax
    }

    /// XMM1 is the destination, XMM2 the source; XMM0 is the guest's, which some instructions use.
    mutating func vector(
        _ instruction: Instruction, flags: LeafFlags, hasImmediate: Bool, isShiftGroup: Bool
    ) {
        emit(0x0F, 0x10, 0x82, 0xA0, 0, 0, 0)  // movups xmm0, [rdx + 160]
        emit(0x0F, 0x10, 0x0F)  // movups xmm1, [rdi]
        if !isShiftGroup { emit(0x0F, 0x10, 0x16) }  // movups xmm2, [rsi]
        if flags.contains(.mxcsr) { loadMXCSR() }
        let modRM: UInt8
        if isShiftGroup {
            modRM = 0xC1 | instruction.modRMReg << 3
        } else {
            // Register forms of stores have the destination in ModRM.rm.
            modRM = instruction.isRegisterMoveToRM ? 0xD1 : 0xCA
        }
        emit(instruction, modRM: modRM, hasImmediate: hasImmediate)
        if flags.contains(.flags) { saveFlags() }
        if flags.contains(.mxcsr) { saveMXCSR() }
        if !flags.contains(.flags) { emit(0x0F, 0x11, 0x0F) }  // movups [rdi], xmm1
        emit(0xC3)
    }

    mutating func vectorToGeneral(
        _ instruction: Instruction, flags: LeafFlags, hasImmediate: Bool
    ) {
        emit(0x0F, 0x10, 0x0E)  // movups xmm1, [rsi]
        if flags.contains(.mxcsr) { loadMXCSR() }
        emit(instruction, modRM: 0xC1, hasImmediate: hasImmediate)  // op eax, xmm1
        if flags.contains(.mxcsr) { saveMXCSR() }
        emit(0x48, 0x89, 0x07)  // mov [rdi], rax
        emit(0xC3)
    }

    mutating func generalToVector(
        _ instruction: Instruction, flags: LeafFlags, hasImmediate: Bool
    ) {
        emit(0x0F, 0x10, 0x0F)  // movups xmm1, [rdi]
        emit(0x48, 0x8B, 0x06)  // mov rax, [rsi]
        if flags.contains(.mxcsr) { loadMXCSR() }
        emit(instruction, modRM: 0xC8, hasImmediate: hasImmediate)  // op xmm1, eax
        if flags.contains(.mxcsr) { saveMXCSR() }
        emit(0x0F, 0x11, 0x0F)  // movups [rdi], xmm1
        emit(0xC3)
    }

    mutating func extract(_ instruction: Instruction, hasImmediate: Bool) {
        emit(0x0F, 0x10, 0x0E)  // movups xmm1, [rsi]
        emit(instruction, modRM: 0xC8, hasImmediate: hasImmediate)  // op eax, xmm1
        emit(0x48, 0x89, 0x07)  // mov [rdi], rax
        emit(0xC3)
    }

    /// PCMPESTRI and its sisters: RAX and RDX are lengths, RCX or XMM0 the result.
    mutating func string(_ instruction: Instruction) {
        emit(0x49, 0x89, 0xC8)  // mov r8, rcx
        emit(0x0F, 0x10, 0x0F)  // movups xmm1, [rdi]
        emit(0x0F, 0x10, 0x16)  // movups xmm2, [rsi]
        emit(0x49, 0x8B, 0x40, 0x18)  // mov rax, [r8 + 24]
        emit(0x49, 0x8B, 0x50, 0x20)  // mov rdx, [r8 + 32]
        emit(instruction, modRM: 0xCA, hasImmediate: true)
        emit(0x9C, 0x58)  // pushfq; pop rax
        emit(0x49, 0x89, 0x40, 0x10)  // mov [r8 + 16], rax
        emit(0x49, 0x89, 0x48, 0x28)  // mov [r8 + 40], rcx
        emit(0x41, 0x0F, 0x11, 0x40, 0x30)  // movups [r8 + 48], xmm0
        emit(0xC3)
    }

    /// Runs between FXRSTOR and FXSAVE, so registers keep their numbers; memory is [RSI] or, where
    /// it is the destination, [RDI]; a general register is EAX.
    mutating func image(_ instruction: Instruction, flags: LeafFlags, hasImmediate: Bool) {
        emit(0x48, 0x0F, 0xAE, 0x0A)  // fxrstor64 [rdx]
        if flags.contains(.generalSource) { emit(0x48, 0x8B, 0x06) }  // mov rax, [rsi]
        // FCOMI leaves the flags alone when it raises an exception that is not masked.
        if instruction.mnemonic.readsFlagsForX87 || flags.contains(.flags) {
            emit(0xFF, 0x71, 0x40, 0x9D)  // push [rcx + 64]; popfq
        }
        let (modRM, rex) = imageOperands(instruction, flags)
        emit(instruction, modRM: modRM, hasImmediate: hasImmediate, rex: rex)
        if flags.contains(.flags) { saveFlags() }
        if flags.contains(.writesGeneral) { emit(0x48, 0x89, 0x07) }  // mov [rdi], rax
        emit(0x48, 0x0F, 0xAE, 0x02)  // fxsave64 [rdx]
        emit(0xDB, 0xE3)  // fninit
        emit(0x0F, 0xAE, 0x51, 0x08)  // ldmxcsr [rcx + 8]
        emit(0xC3)
    }

    private func imageOperands(_ instruction: Instruction, _ flags: LeafFlags) -> (UInt8, UInt8) {
        if instruction.map == 0 {  // x87
            if instruction.isRegisterForm { return (instruction.modRM, 0) }
            let base: UInt8 = flags.contains(.writesMemory) ? 7 : 6
            return (instruction.modRM & 0x38 | base, 0)
        }
        // Register numbers above 7 exist only for XMM operands.
        var reg = instruction.modRMReg
        var rm = instruction.modRM & 7
        var rex: UInt8 = 0
        if flags.contains(.memory) {
            rm = flags.contains(.writesMemory) ? 7 : 6
        }
        for index in 0..<Int(instruction.operandCount) {
            let operand = instruction.operands[index]
            switch operand.kind {
            case .vector where operand.register > 7:
                rex |= isReg(instruction, index) ? 4 : 1
            case .general:
                if isReg(instruction, index) { reg = 0 } else { rm = 0 }
            default: break
            }
        }
        return ((flags.contains(.memory) ? 0 : 0xC0) | reg << 3 | rm, rex)
    }

    /// Whether an operand sits in ModRM.reg: the first one, except in stores.
    private func isReg(_ instruction: Instruction, _ index: Int) -> Bool {
        let isStore = instruction.opcode == 0x7E || instruction.opcode == 0x7F
        return (index == 0) != isStore
    }
}

extension Instruction {
    /// MOVUPS, MOVAPS, MOVDQA and MOVQ in their store encodings.
    fileprivate var isRegisterMoveToRM: Bool {
        guard map == 1, isRegisterForm else { return false }
        switch opcode {
        case 0x11, 0x29, 0x7F: return true
        case 0xD6: return mandatoryPrefix == 0x66
        default: return false
        }
    }
}
