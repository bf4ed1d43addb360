internal import TCGDecoder

// SSE instructions run as they are: the guest's XMM registers and MXCSR are the host's from the
// first block that needs them until something else runs (see `HostStubs.loadVectors`). Only what
// names general registers or memory is encoded anew.

extension LeafDescriptor {
    /// Translated code executes the instruction itself. What works on the x87 stack or on MMX
    /// registers, and what loads or stores state, is the interpreter's.
    var isNative: Bool {
        guard flags.contains(.sse) else { return false }
        switch kind {
        case .vector, .vectorToGeneral, .generalToVector, .extract, .string, .loadPart, .loadZero,
            .storePart:
            return true
        default: return false
        }
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
    func usesVectors(_ op: OperationPointer) -> Bool {
        // Where they are not available, the interpreter raises the exception.
        guard block.key & ModeKey.noFPU == 0, let leaf = op.leaf else { return false }
        return leaf.isNative
    }

    mutating func emitVector(_ op: OperationPointer, _ use: FlagUse) -> Bool {
        guard usesVectors(op), let leaf = op.leaf, let instruction = instruction(op) else {
            return false
        }
        if !instruction.isRegisterForm {
            return emitVectorMemory(op, leaf, instruction, use)
        }
        let general = instruction.operands.firstIndex(of: .general)
        guard let general else {
            prepareFlags(use)
            copyBytes(op)
            return true
        }
        let number = instruction.operands[general].register
        let other = instruction.operands[1 - general].register
        let isWritten = general == 0
        let scratch = HostRegister.first
        let host = isWritten ? target(number, scratch) : source(number, scratch)
        // MOVD, MOVQ and the PEXTRs name the general register in ModRM.rm, as do all that read it.
        let isInRM = !isWritten || leaf.kind == .extract
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
        access(
            op, size: UInt8(leaf.memorySize), isWrite: isWrite,
            isAligned: leaf.flags.contains(.aligned))
        let operand = instruction.operands[isWrite ? 1 : 0]
        let isGeneral = operand.kind == .general
        let register =
            isGeneral ? target(operand.register, HostRegister.second) : operand.register
        prepareFlags(use)
        code.vector(instruction, reg: register, .memory(HostMemory(HostRegister.first)))
        if isGeneral { store(operand.register, HostRegister.second) }
        resume()
        return true
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
