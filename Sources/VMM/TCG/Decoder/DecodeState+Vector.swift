extension DecodeState {
    /// Two- and three-byte VEX (SDM volume 2, section 2.3).
    mutating func decodeVEX(escape: UInt8, _ bytes: Span<UInt8>) throws(DecodeFailure) {
        try rejectLegacyPrefixes()
        instruction.encoding = .vex
        let first = try byte(bytes)
        var last = first
        instruction.map = 1
        if is64 { extendReg = (~first & 0x80) >> 4 }
        if escape == 0xC4 {
            last = try byte(bytes)
            instruction.map = first & 0x1F
            if is64 {
                extendIndex = (~first & 0x40) >> 3
                extendBase = (~first & 0x20) >> 2
            }
            w = last & 0x80 != 0
        }
        vvvv = (~last >> 3) & 15
        mandatory = last & 3
        vectorLength = last & 4 != 0 ? 32 : 16
        let opcode = try byte(bytes)
        let entry: TableEntry
        switch instruction.map {
        case 1: entry = vexMap1Entry(opcode, context)
        case 2: entry = vexMap2Entry(opcode, context)
        case 3: entry = vexMap3Entry(opcode, context)
        default: throw .undefined
        }
        try decodeVector(entry, opcode, bytes)
    }

    /// EVEX (SDM volume 2, section 2.7).
    mutating func decodeEVEX(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        try rejectLegacyPrefixes()
        instruction.encoding = .evex
        let first = try byte(bytes)
        let second = try byte(bytes)
        let third = try byte(bytes)
        guard first & 8 == 0, second & 4 != 0 else { throw .undefined }
        instruction.map = first & 7
        if is64 {
            extendReg = (~first & 0x80) >> 4
            extendIndex = (~first & 0x40) >> 3
            extendBase = (~first & 0x20) >> 2
            extendRegHigh = ~first & 0x10
            extendVvvvHigh = (~third & 8) << 1
        } else if third & 8 == 0 {
            throw .undefined
        }
        w = second & 0x80 != 0
        vvvv = (~second >> 3) & 15
        mandatory = second & 3
        instruction.isZeroing = third & 0x80 != 0
        instruction.hasEVEXb = third & 0x10 != 0
        instruction.maskRegister = third & 7
        let lengthBits = (third >> 5) & 3
        vectorLength = lengthBits == 3 ? 0 : 16 << lengthBits
        let opcode = try byte(bytes)
        let entry: TableEntry
        switch instruction.map {
        case 1: entry = evexMap1Entry(opcode, context)
        case 2: entry = evexMap2Entry(opcode, context)
        case 3: entry = evexMap3Entry(opcode, context)
        case 5: entry = evexMap5Entry(opcode, context)
        case 6: entry = evexMap6Entry(opcode, context)
        default: throw .undefined
        }
        try decodeVector(entry, opcode, bytes)
    }

    /// AMD's XOP: only its length is of interest.
    mutating func decodeXOP(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        try rejectLegacyPrefixes()
        let first = try byte(bytes)
        _ = try byte(bytes)
        let opcode = try byte(bytes)
        instruction.encoding = .other
        instruction.mnemonic = .xop
        instruction.feature = .xop
        instruction.map = first & 0x1F
        instruction.opcode = opcode
        try readModRM(bytes)
        if instruction.modRM < 0xC0 { try readMemory(vectorIndex: false, bytes) }
        switch instruction.map {
        case 8: _ = try byte(bytes)
        case 9: break
        case 10: _ = try signed(4, bytes)
        default: throw .undefined
        }
    }

    /// VEX, EVEX and XOP do not go with the prefixes that they replace, nor with LOCK.
    private func rejectLegacyPrefixes() throws(DecodeFailure) {
        let rejected: Prefixes = [.lock, .rep, .repne, .operandSize, .rex]
        guard instruction.prefixes.isDisjoint(with: rejected) else { throw .undefined }
    }

    private mutating func decodeVector(
        _ tableEntry: TableEntry, _ opcode: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        var entry = tableEntry
        instruction.opcode = opcode
        instruction.mandatoryPrefix = mandatoryByte
        instruction.vectorW = w
        instruction.operandSize = w && is64 ? 8 : 4
        if entry.group != .none {
            try readModRM(bytes)
            entry = groupEntry(entry.group, opcode: opcode, modRM: instruction.modRM, context)
        }
        if entry.mnemonic == .invalid { throw .undefined }
        instruction.mnemonic = entry.mnemonic
        instruction.feature = entry.feature
        let flags = entry.vector
        try checkW(flags)
        if flags.contains(.only64) && !is64 { throw .undefined }
        if entry.usesModRM {
            if !instruction.hasModRM { try readModRM(bytes) }
            try resolveLength(flags)
            if instruction.modRM < 0xC0 {
                try readMemory(vectorIndex: flags.contains(.vectorIndex), bytes)
            }
            try decodeOperand(entry.a, bytes)
            try decodeOperand(entry.b, bytes)
            try decodeOperand(entry.c, bytes)
            try decodeOperand(entry.d, bytes)
        } else {
            try resolveLength(flags)
        }
        if !usesVvvv && (vvvv != 0 || extendVvvvHigh != 0 && !flags.contains(.vectorIndex)) {
            throw .undefined
        }
        if flags.contains(.integer) && vectorLength == 32 { instruction.feature = .avx2 }
        if flags.contains(.distinct) { try checkDistinct(flags) }
        if instruction.encoding == .evex { try finishEVEX(flags) }
    }

    private func checkW(_ flags: VectorFlags) throws(DecodeFailure) {
        if flags.contains(.w0) && w || flags.contains(.w1) && !w { throw .undefined }
    }

    /// Checks the vector length; a rounding mode or suppressed exceptions stand for 512 bits.
    private mutating func resolveLength(_ flags: VectorFlags) throws(DecodeFailure) {
        // 3 as a length is only valid as a rounding mode.
        let replacesLength =
            instruction.hasEVEXb && instruction.modRM >= 0xC0
            && !flags.isDisjoint(with: [.rounding, .suppress])
        guard vectorLength != 0 || replacesLength else { throw .undefined }
        if flags.contains(.lig) {
            instruction.vectorLength = 16
            vectorLength = 16
            return
        }
        if replacesLength { vectorLength = 64 }
        let allowed: VectorFlags = [.l128, .l256, .l512]
        if !flags.isDisjoint(with: allowed) {
            let actual: VectorFlags =
                vectorLength == 16 ? .l128 : vectorLength == 32 ? .l256 : .l512
            guard flags.contains(actual) else { throw .undefined }
        }
        instruction.vectorLength = vectorLength
    }

    /// Gathers and tile products: all registers differ. Complex multiplications: the destination
    /// is no source.
    private func checkDistinct(_ flags: VectorFlags) throws(DecodeFailure) {
        let destination = instruction.operands[0].register
        if flags.contains(.vectorIndex) {
            if destination == instruction.memory.index { throw .undefined }
            guard instruction.encoding == .vex else { return }
            let mask = instruction.operands[2].register
            if destination == mask || mask == instruction.memory.index { throw .undefined }
        } else {
            for index in 1..<3 where instruction.operands[index].kind != .memory {
                if instruction.operands[index].register == destination { throw .undefined }
            }
            if instruction.operands[1] == instruction.operands[2]
                && instruction.operands[1].kind == .tile
            {
                throw .undefined
            }
        }
    }

    /// Masks, zeroing, broadcasts and compressed displacements.
    private mutating func finishEVEX(_ flags: VectorFlags) throws(DecodeFailure) {
        let hasMask = instruction.maskRegister != 0
        if hasMask && flags.isDisjoint(with: [.mask, .needsMask]) { throw .undefined }
        if !hasMask && flags.contains(.needsMask) { throw .undefined }
        if instruction.isZeroing {
            guard flags.contains(.zero), hasMask, instruction.operands[0].kind != .memory else {
                throw .undefined
            }
        }
        if instruction.modRM >= 0xC0 {
            if instruction.hasEVEXb && flags.isDisjoint(with: [.rounding, .suppress]) {
                throw .undefined
            }
            return
        }
        guard let index = memoryOperandIndex else { return }
        if instruction.hasEVEXb {
            if flags.contains(.broadcast16) {
                instruction.operands[index].size = 2
            } else if flags.contains(.broadcast) {
                instruction.operands[index].size = w ? 8 : 4
            } else {
                throw .undefined
            }
        }
        guard hasByteDisplacement else { return }
        var unit = instruction.operands[index].size
        if flags.contains(.element) {
            unit = w ? 8 : 4
        } else if flags.contains(.smallElement) {
            unit = w ? 2 : 1
        }
        instruction.memory.displacement &*= Int64(unit)
    }

    private var memoryOperandIndex: Int? {
        for index in 0..<4 where instruction.operands[index].kind == .memory { return index }
        return nil
    }
}
