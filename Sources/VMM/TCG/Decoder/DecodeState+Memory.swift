extension DecodeState {
    /// Reads ModRM and, if it names memory, SIB and displacement.
    mutating func readModRM(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        instruction.modRM = try byte(bytes)
        instruction.hasModRM = true
    }

    /// Decodes the memory operand that ModRM names, which has been read (SDM volume 2,
    /// section 2.1.5 and 2.2.1). `vectorIndex`: SIB is required and its index is a vector.
    mutating func readMemory(
        vectorIndex: Bool, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        if instruction.addressSize == 2 {
            if vectorIndex { throw .undefined }
            return try readMemory16(bytes)
        }
        let modRM = instruction.modRM
        var base = modRM & 7
        var displacementSize: UInt8 = modRM < 0x40 ? 0 : modRM < 0x80 ? 1 : 4
        var hasBase = true
        if base == 4 {
            let sib = try byte(bytes)
            let index = (sib >> 3) & 7 | extendIndex
            if vectorIndex {
                instruction.memory.index = index | extendVvvvHigh
                instruction.memory.hasVectorIndex = true
                instruction.memory.scale = 1 << (sib >> 6)
            } else if index != 4 {
                instruction.memory.index = index
                instruction.memory.scale = 1 << (sib >> 6)
            }
            base = sib & 7
            if base == 5 && modRM < 0x40 {
                hasBase = false
                displacementSize = 4
            }
        } else if vectorIndex {
            throw .undefined
        } else if base == 5 && modRM < 0x40 {
            hasBase = false
            displacementSize = 4
            if is64 { instruction.memory.base = MemoryOperand.instructionPointer }
        }
        if hasBase { instruction.memory.base = base | extendBase }
        if displacementSize != 0 {
            instruction.memory.displacement = try signed(displacementSize, bytes)
            hasByteDisplacement = displacementSize == 1
        }
        setSegment(isStack: hasBase && (base | extendBase) & 0xE == 4)
    }

    /// The 16-bit forms: BX or BP plus SI or DI.
    private mutating func readMemory16(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        let modRM = instruction.modRM
        let rm = modRM & 7
        var displacementSize: UInt8 = modRM < 0x40 ? 0 : modRM < 0x80 ? 1 : 2
        let rbx: UInt8 = 3
        let rbp: UInt8 = 5
        let rsi: UInt8 = 6
        let rdi: UInt8 = 7
        switch rm {
        case 0: (instruction.memory.base, instruction.memory.index) = (rbx, rsi)
        case 1: (instruction.memory.base, instruction.memory.index) = (rbx, rdi)
        case 2: (instruction.memory.base, instruction.memory.index) = (rbp, rsi)
        case 3: (instruction.memory.base, instruction.memory.index) = (rbp, rdi)
        case 4: instruction.memory.base = rsi
        case 5: instruction.memory.base = rdi
        case 6:
            if modRM < 0x40 { displacementSize = 2 } else { instruction.memory.base = rbp }
        default: instruction.memory.base = rbx
        }
        if displacementSize != 0 {
            instruction.memory.displacement = try signed(displacementSize, bytes)
            hasByteDisplacement = displacementSize == 1
        }
        setSegment(isStack: instruction.memory.base == rbp)
    }

    /// Applies the override or the default segment to the memory operand.
    mutating func setSegment(isStack: Bool) {
        let stackSegment: UInt8 = 2
        let dataSegment: UInt8 = 3
        if segment != 255 {
            instruction.memory.segment = segment
        } else {
            instruction.memory.segment = isStack ? stackSegment : dataSegment
        }
    }
}
