internal import TCGDecoder

/// Decides how a vector, MMX or x87 instruction is executed: its `LeafDescriptor` but for the stub.
struct LeafClassifier {
    let instruction: Instruction

    func operand(_ index: Int) -> Operand { instruction.operands[index] }

    var memoryIndex: Int? {
        for index in 0..<Int(instruction.operandCount) where operand(index).kind == .memory {
            return index
        }
        return nil
    }

    var memorySize: UInt8 { memoryIndex.map { operand($0).size } ?? 0 }

    /// The instruction with what a stub needs changed: INSERTPS from memory ignores the source's
    /// number, which the register form that the stub executes does not.
    static func normalised(_ instruction: Instruction) -> Instruction {
        var instruction = instruction
        if instruction.mnemonic == .insertps, !instruction.isRegisterForm {
            instruction.immediate &= 0x3F
        }
        return instruction
    }

    /// Whether an 8-bit immediate follows.
    var hasImmediate: Bool {
        for index in 0..<Int(instruction.operandCount) where operand(index).kind == .immediate {
            return true
        }
        return false
    }

    /// The shift groups 0F 71-73, whose ModRM.reg is part of the opcode.
    var isShiftGroup: Bool {
        instruction.map == 1 && (0x71...0x73).contains(instruction.opcode)
    }

    /// ModRM.reg is part of the opcode.
    var isGroup: Bool {
        isShiftGroup || instruction.map == 1 && instruction.opcode == 0xAE
            // BLSR and the like.
            || instruction.encoding == .vex && instruction.map == 2 && instruction.opcode == 0xF3
    }

    func descriptor() -> LeafDescriptor? {
        if instruction.encoding == .vex { return vex() }
        guard instruction.encoding == .legacy else { return nil }
        if let special = stateInstruction() { return special }
        if instruction.map == 0 { return x87() }
        if usesMMX { return mmx() }
        return move() ?? vector()
    }

    private var usesMMX: Bool {
        switch instruction.mnemonic {
        case .emms: return true
        // From memory they touch no MMX register, but they run like the others.
        case .cvtpi2ps, .cvtpi2pd: return true
        default: break
        }
        for index in 0..<Int(instruction.operandCount) where operand(index).kind == .mmx {
            return true
        }
        return false
    }

    // MARK: State

    private func stateInstruction() -> LeafDescriptor? {
        let (kind, flags): (LeafKind, LeafFlags)
        switch instruction.mnemonic {
        case .fxsave: (kind, flags) = (.fxsave, [])
        case .fxrstor: (kind, flags) = (.fxrstor, [])
        case .ldmxcsr: (kind, flags) = (.ldmxcsr, .sse)
        case .stmxcsr: (kind, flags) = (.stmxcsr, .sse)
        case .fninit: (kind, flags) = (.fninit, .x87)
        case .fnclex: (kind, flags) = (.fnclex, .x87)
        case .fldcw: (kind, flags) = (.fldcw, .x87)
        case .fnstcw: (kind, flags) = (.fnstcw, .x87)
        case .fnstsw: (kind, flags) = (.fnstsw, .x87)
        case .fwait: (kind, flags) = (.fwait, .x87)
        case .fldenv: (kind, flags) = (.fldenv, .x87)
        case .fnstenv: (kind, flags) = (.fnstenv, .x87)
        case .frstor: (kind, flags) = (.frstor, .x87)
        case .fnsave: (kind, flags) = (.fnsave, .x87)
        case .maskmovdqu: (kind, flags) = (.maskedStore, .sse)
        case .maskmovq: (kind, flags) = (.maskedStore, .mmx)
        default: return nil
        }
        var descriptor = LeafDescriptor(kind: kind, flags: flags)
        if memoryIndex != nil { descriptor.flags.insert(.memory) }
        descriptor.operandSize = instruction.operandSize
        if kind == .maskedStore {
            // The destination is [DS:RDI] with the usual prefixes.
            descriptor.offset = instruction.memory.segment
            descriptor.generalSize = instruction.addressSize
        }
        return descriptor
    }

    // MARK: x87 and MMX

    private func x87() -> LeafDescriptor? {
        guard (0xD8...0xDF).contains(instruction.opcode) else { return nil }
        var descriptor = LeafDescriptor(kind: .image, flags: [.x87, .setsPointers])
        descriptor.opcode = UInt16(instruction.opcode & 7) << 8 | UInt16(instruction.modRM)
        if memoryIndex != nil {
            descriptor.flags.insert(.memory)
            descriptor.size = memorySize
            switch instruction.mnemonic {
            case .fst, .fstp, .fist, .fistp, .fisttp, .fbstp:
                descriptor.flags.insert(.writesMemory)
            default: break
            }
        }
        switch instruction.mnemonic {
        case .fcomi, .fcomip, .fucomi, .fucomip: descriptor.flags.insert(.flags)
        case .fnop, .fneni, .fndisi, .fnsetpm: descriptor.flags.remove(.setsPointers)
        default: break
        }
        return descriptor
    }

    private func mmx() -> LeafDescriptor? {
        var descriptor = LeafDescriptor(kind: .image, flags: .mmx)
        if memoryIndex != nil, operand(0).kind == .vector { descriptor.flags = .sse }
        if let index = memoryIndex {
            descriptor.flags.insert(.memory)
            descriptor.size = memorySize
            if memorySize == 16 { descriptor.flags.insert(.aligned) }
            if index == 0 { descriptor.flags.insert(.writesMemory) }
        }
        for index in 0..<Int(instruction.operandCount) where operand(index).kind == .general {
            if index == 0 {
                descriptor.flags.insert(.writesGeneral)
                descriptor.generalSize = operand(0).size
            } else {
                descriptor.flags.insert(.generalSource)
            }
        }
        // CVTPI2PS and the like have one operand in an XMM register.
        if (0x2A...0x2D).contains(instruction.opcode), instruction.map == 1 {
            descriptor.flags.insert(.mxcsr)
        }
        return descriptor
    }

    // MARK: Moves between memory and XMM registers

    private func move() -> LeafDescriptor? {
        guard let index = memoryIndex else { return nil }
        var descriptor = LeafDescriptor(kind: .loadPart, flags: [.sse, .memory])
        descriptor.size = memorySize
        let isStore = index == 0
        switch instruction.mnemonic {
        case .movaps, .movapd, .movdqa, .movntps, .movntpd, .movntdq, .movntdqa:
            descriptor.flags.insert(.aligned)
        case .movups, .movupd, .movdqu, .lddqu: break
        case .movss, .movsd, .movd, .movq: if !isStore { descriptor.kind = .loadZero }
        case .movlps, .movlpd: break
        case .movhps, .movhpd: descriptor.offset = 8
        case .movntss, .movntsd: break
        default: return nil
        }
        if isStore { descriptor.kind = .storePart }
        return descriptor
    }

    // MARK: The rest of SSE

    private func vector() -> LeafDescriptor? {
        var descriptor = LeafDescriptor(kind: .vector, flags: .sse)
        descriptor.size = memorySize
        if memoryIndex != nil { descriptor.flags.insert(.memory) }
        if usesMXCSR { descriptor.flags.insert(.mxcsr) }
        switch instruction.mnemonic {
        case .comiss, .comisd, .ucomiss, .ucomisd, .ptest: descriptor.flags.insert(.flags)
        case .pcmpestri, .pcmpistri:
            descriptor.kind = .string
            descriptor.flags.formUnion([.flags, .indexResult])
        case .pcmpestrm, .pcmpistrm:
            descriptor.kind = .string
            descriptor.flags.insert(.flags)
        default: break
        }
        if memorySize == 16, descriptor.kind != .string { descriptor.flags.insert(.aligned) }
        guard instruction.operandCount > 0 else { return nil }
        switch (operand(0).kind, operand(1).kind) {
        case (.vector, .vector), (.vector, .immediate): break
        case (.vector, .memory):
            if hasGeneralSource { descriptor.kind = .generalToVector }
        case (.vector, .general):
            descriptor.kind = .generalToVector
            descriptor.flags.insert(.generalSource)
        case (.general, .vector), (.general, .memory):
            descriptor.kind = storesFromReg ? .extract : .vectorToGeneral
            descriptor.flags.insert(.writesGeneral)
            descriptor.generalSize = operand(0).size
        case (.memory, .vector):
            descriptor.kind = .extract
            descriptor.flags.insert(.writesMemory)
        default: return nil
        }
        return descriptor
    }

    /// ModRM.rm is a general register or memory of its size.
    private var hasGeneralSource: Bool {
        switch instruction.mnemonic {
        case .cvtsi2ss, .cvtsi2sd, .pinsrb, .pinsrw, .pinsrd, .pinsrq: true
        default: false
        }
    }

    /// ModRM.rm is the destination.
    private var storesFromReg: Bool {
        switch instruction.mnemonic {
        case .extractps, .pextrb, .pextrd, .pextrq, .movd, .movq: true
        case .pextrw: instruction.map == 3
        default: false
        }
    }

    var usesMXCSR: Bool {
        switch (instruction.map, instruction.opcode) {
        case (1, 0x2A), (1, 0x2C...0x2F), (1, 0x51), (1, 0x58...0x5F), (1, 0x7C), (1, 0x7D),
            (1, 0xC2), (1, 0xD0), (1, 0xE6), (3, 0x08...0x0B), (3, 0x40), (3, 0x41):
            true
        default: false
        }
    }
}

extension Mnemonic {
    /// FCMOVcc test flags.
    var readsFlagsForX87: Bool {
        switch self {
        case .fcmovb, .fcmovbe, .fcmove, .fcmovnb, .fcmovnbe, .fcmovne, .fcmovnu, .fcmovu: true
        default: false
        }
    }
}
