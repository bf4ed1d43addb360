internal import TCGDecoder

// SSE, AVX, MMX and x87 instructions run as they are: the guest's XMM registers and MXCSR, and with the
// first block that needs them its x87 registers, are the host's until translated code is left (see
// HostStubs+Vectors.swift). Only what names general registers or memory is encoded anew.

extension LeafDescriptor {
    /// Translated code executes the instruction itself. What loads or stores state is the
    /// interpreter's.
    var isNative: Bool { usesX87 || usesSSE || usesVEX }

    /// Gathers and masked moves are the interpreter's, because of how they fault.
    private var usesVEX: Bool { kind == .vex || kind == .vexGeneral || kind == .zeroUpper }

    private var usesSSE: Bool {
        guard flags.contains(.sse) else { return false }
        switch kind {
        case .vector, .vectorToGeneral, .generalToVector, .extract, .string, .loadPart, .loadZero,
            .storePart:
            return true
        default: return false
        }
    }

    /// It works on x87 or MMX registers, or their state, in the host.
    var usesX87: Bool { kind == .image || kind == .fnstcw || kind == .fnstsw }

    /// FCMOVcc, by FOP.
    var readsFlags: Bool {
        flags.contains(.x87) && (opcode >> 8 == 2 || opcode >> 8 == 3)
            && (0xC0...0xDF).contains(opcode & 0xFF)
    }
}

extension OperationPointer {
    /// What an operation of code `leaf` does.
    var leaf: LeafDescriptor? {
        guard code == .leaf else { return nil }
        // SAFETY: the lowering stored a descriptor's address, and those are never freed.
        return unsafe UnsafePointer<LeafDescriptor>(
            bitPattern: Int(truncatingIfNeeded: immediate))?.pointee
    }
}

extension HostBlock {
    /// Whether the operation needs the guest's vector registers in the host's.
    func usesVectors(_ op: OperationPointer) -> Bool { Self.usesVectors(op, block.key) }

    private static func usesVectors(_ op: OperationPointer, _ key: UInt32) -> Bool {
        // Where they are not available, the interpreter raises the exception.
        guard let leaf = op.leaf, leaf.isNative, leaf.kind != .vexGeneral else { return false }
        let obstacle = leaf.flags.contains(.avx) ? ModeKey.noAVX : ModeKey.noFPU
        return key & obstacle == 0
    }

    /// What a block's operations need, as `HostFrame.Vectors`.
    static func neededVectors(_ block: Block) -> UInt16 {
        var needed: UInt16 = 0
        for index in 0..<(unsafe Int(block.header.pointee.operationCount)) {
            // SAFETY: the block's operations, as many as its header says.
            let op = unsafe OperationPointer(block.operations.pointer + index)
            guard usesVectors(op, block.key), let leaf = op.leaf else { continue }
            needed |= HostFrame.Vectors.sse
            if leaf.usesX87 { needed |= HostFrame.Vectors.x87 }
            if leaf.flags.contains(.avx) { needed |= HostFrame.Vectors.avx }
        }
        return needed
    }

    mutating func emitVector(_ op: OperationPointer, _ use: FlagUse) -> Bool {
        guard let leaf = op.leaf, leaf.kind == .vexGeneral || usesVectors(op),
            let instruction = instruction(op)
        else { return false }
        if instruction.encoding == .vex { return emitVEX(op, leaf, instruction, use) }
        if instruction.hasModRM && !instruction.isRegisterForm {
            return emitVectorMemory(op, leaf, instruction, use)
        }
        let general = instruction.operands.firstIndex(of: .general)
        guard let general else {
            prepareFlags(use)
            copyBytes(op)
            setPointers(op, leaf)
            return true
        }
        // FNSTSW AX.
        if leaf.kind == .fnstsw {
            copyBytes(op)
            return true
        }
        let number = instruction.operands[general].register
        let other = instruction.operands[1 - general].register
        let isWritten = general == 0
        let scratch = HostRegister.first
        let host = isWritten ? target(number, scratch) : source(number, scratch)
        // MOVD, MOVQ and the PEXTRs name the general register in ModRM.rm, as do all that read it.
        let isInRM = !isWritten || leaf.kind == .extract || instruction.opcode == 0x7E
        prepareFlags(use)
        code.vector(
            instruction, reg: isInRM ? other : host, .register(isInRM ? host : other))
        if isWritten { store(number, scratch) }
        return true
    }

    private mutating func emitVectorMemory(
        _ op: OperationPointer, _ leaf: LeafDescriptor, _ instruction: Instruction, _ use: FlagUse
    ) -> Bool {
        guard canAddress(op) else { return false }
        let isWrite = op.form.contains(.memoryDestination)
        let setsPointers = leaf.flags.contains(.setsPointers)
        access(
            op, size: UInt8(leaf.memorySize), isWrite: isWrite,
            isAligned: leaf.flags.contains(.aligned), keepsAddress: setsPointers)
        if instruction.map == 0 {
            code.vector(
                instruction, reg: instruction.modRMReg, .memory(operand))
            setPointers(op, leaf)
            resume()
            return true
        }
        let other = instruction.operands[isWrite ? 1 : 0]
        let isGeneral = other.kind == .general
        let register =
            isGeneral ? target(other.register, HostRegister.second) : other.register
        prepareFlags(use)
        code.vector(instruction, reg: register, .memory(operand))
        if isGeneral { store(other.register, HostRegister.second) }
        resume()
        return true
    }

    /// FOP, FIP and FDP are kept in the image; the host's have the host's addresses.
    private mutating func setPointers(_ op: OperationPointer, _ leaf: LeafDescriptor) {
        guard leaf.flags.contains(.setsPointers) else { return }
        let second = HostRegister.second
        if leaf.flags.contains(.memory) {
            code.load(second, HostFrame.slot(HostFrame.target))
            code.store(HostFrame.image(FXImage.dataPointer), second)
        }
        setMoving(second, to: block.rip(of: op))
        code.store(HostFrame.image(FXImage.instructionPointer), second)
        code.memory(0xC7, size: 2, reg: 0, HostFrame.image(FXImage.opcode))
        code.immediate(Int64(leaf.opcode), size: 2)
    }

    /// The operation's instruction, decoded again.
    func instruction(_ op: OperationPointer) -> Instruction? {
        let decoder = Decoder(mode: .bits64)
        let start = Int(op.nextOffset) - Int(op.length)
        // SAFETY: the block has a copy of all its instructions' bytes.
        let bytes = unsafe UnsafeBufferPointer(
            start: (block.bytes + start).assumingMemoryBound(to: UInt8.self),
            count: Int(op.length))
        guard case .instruction(let found) = unsafe decoder.decode(bytes.span) else { return nil }
        return found
    }

    /// Writes the instruction as it is.
    mutating func copyBytes(_ op: OperationPointer) {
        let start = Int(op.nextOffset) - Int(op.length)
        for offset in start..<Int(op.nextOffset) {
            // SAFETY: as above.
            code.byte(unsafe block.bytes.load(fromByteOffset: offset, as: UInt8.self))
        }
    }
}

extension InlineArray where Element == Operand {
    /// The first operand of a kind.
    fileprivate func firstIndex(of kind: OperandKind) -> Int? {
        for index in 0..<count where self[index].kind == kind { return index }
        return nil
    }
}
