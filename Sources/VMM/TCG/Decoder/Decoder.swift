// Overview
//
// Bytes become an `Instruction` in three steps, without allocation and in about 70 ns:
//
// 1. `DecodeState.readPrefixes` collects prefixes, settles operand and address size and stops at
//    the opcode. VEX, EVEX and XOP (`DecodeState+Vector`) carry the same facts in their own bytes.
// 2. A map looks the opcode up: `oneByteEntry`, `twoByteEntry` (0F), `map38Entry`, `map3AEntry`,
//    `x87Entry`, `vexMap1Entry` ..., `evexMap1Entry` .... A map is a flat `switch` over opcodes,
//    or over prefix and opcode, that yields a `TableEntry`: name, CPUID feature, up to four
//    operands in the notation of the SDM's opcode maps and what the instruction demands. The
//    compiler turns these switches into constant tables, so nothing is built at start. Where
//    ModRM chooses the instruction, the entry names an `OpcodeGroup` and `groupEntry` goes on.
// 3. ModRM, SIB and displacement are read (`DecodeState+Memory`), then each operand in turn
//    (`DecodeState+Operands`), which consumes the immediates. LOCK, masks, broadcasts, rounding
//    and reserved fields are checked last.
//
// Example: `F3 48 0F B8 C1`. F3 becomes mandatory prefix 2, 48 sets W, so the operand size is 8;
// opcode B8 of map 1 is `row(.popcnt, .popcnt, .Gv, .Ev)`. ModRM C1 makes Gv RAX and Ev RCX.
//
// Choices: near branches ignore 66 in 64-bit mode, as Intel's processors do. An encoding that no
// processor defines is `.undefined`, also if only Xeon Phi or VIA had it, and so is FMA4;
// XOP and 3DNow! are measured but not checked. To add an instruction, add its name to `Mnemonic`
// and a row to a map; the tests compare every row with Zydis.

/// Decodes x86 machine code of every mode.
public struct Decoder: Sendable {
    public let mode: CodeMode

    public init(mode: CodeMode) { self.mode = mode }

    /// Decodes the instruction at the start of `bytes`, which holds what is available of it;
    /// 15 bytes are always enough.
    public func decode(_ bytes: Span<UInt8>) -> DecodeResult {
        var state = DecodeState(mode: mode)
        do throws(DecodeFailure) {
            try state.decode(bytes)
            return .instruction(state.instruction)
        } catch {
            switch error {
            case .truncated: return .truncated
            case .undefined: return .undefined
            case .tooLong: return .tooLong
            }
        }
    }

    /// The same for a whole array.
    public func decode(_ bytes: [UInt8]) -> DecodeResult { decode(bytes.span) }
}

extension DecodeState {
    /// Decodes prefixes and opcode, then whatever the opcode calls for.
    mutating func decode(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        let opcode = try readPrefixes(bytes)
        switch opcode {
        case 0x0F: try decodeEscape(bytes)
        case 0xC4, 0xC5:
            // LES and LDS have no register form, so outside 64-bit mode that is VEX.
            let isVEX = try is64 ? true : peek(bytes) >= 0xC0
            if isVEX {
                try decodeVEX(escape: opcode, bytes)
            } else {
                try decodeLegacy(oneByteEntry(opcode, is64: false), map: 0, opcode, bytes)
            }
        case 0x62:
            let isEVEX = try is64 ? true : peek(bytes) >= 0xC0
            if isEVEX {
                try decodeEVEX(bytes)
            } else {
                try decodeLegacy(oneByteEntry(opcode, is64: false), map: 0, opcode, bytes)
            }
        case 0x8F:
            // POP has ModRM.reg 0, XOP a map number of at least 8 in the same place.
            let isXOP = try peek(bytes) & 0x1F >= 8
            if isXOP {
                try decodeXOP(bytes)
            } else {
                try decodeLegacy(oneByteEntry(opcode, is64: is64), map: 0, opcode, bytes)
            }
        case 0x90: try decodeNoOperation(bytes)
        default: try decodeLegacy(oneByteEntry(opcode, is64: is64), map: 0, opcode, bytes)
        }
        instruction.length = UInt8(truncatingIfNeeded: position)
    }

    /// Reads prefixes up to the opcode, which it returns.
    private mutating func readPrefixes(_ bytes: Span<UInt8>) throws(DecodeFailure) -> UInt8 {
        var rex: UInt8 = 0
        var opcode: UInt8
        while true {
            opcode = try byte(bytes)
            switch opcode {
            case 0xF0: instruction.prefixes.insert(.lock)
            case 0xF2:
                instruction.prefixes.insert(.repne)
                mandatory = 3
            case 0xF3:
                instruction.prefixes.insert(.rep)
                mandatory = 2
            case 0x66: instruction.prefixes.insert(.operandSize)
            case 0x67: instruction.prefixes.insert(.addressSize)
            case 0x26, 0x2E, 0x36, 0x3E:
                if !is64 {
                    segment = (opcode >> 3) & 3
                    instruction.prefixes.insert(.segment)
                }
            case 0x64, 0x65:
                segment = opcode & 7
                instruction.prefixes.insert(.segment)
            case 0x40...0x4F where is64:
                rex = opcode
                continue
            default:
                finishPrefixes(rex)
                return opcode
            }
            // Only a REX directly before the opcode counts.
            rex = 0
        }
    }

    private mutating func finishPrefixes(_ rex: UInt8) {
        // Of F2 and F3 the last one counts.
        if mandatory == 3 { instruction.prefixes.remove(.rep) }
        if mandatory == 2 { instruction.prefixes.remove(.repne) }
        let has66 = instruction.prefixes.contains(.operandSize)
        if mandatory == 0 && has66 { mandatory = 1 }
        if rex != 0 {
            hasRex = true
            instruction.prefixes.insert(.rex)
            w = rex & 8 != 0
            if w { instruction.prefixes.insert(.rexW) }
            extendReg = (rex & 4) << 1
            extendIndex = (rex & 2) << 2
            extendBase = (rex & 1) << 3
        }
        // String instructions and XLAT have no operand that it would be applied to.
        if segment != 255 { instruction.memory.segment = segment }
        let has67 = instruction.prefixes.contains(.addressSize)
        switch instruction.mode {
        case .bits16:
            instruction.operandSize = has66 ? 4 : 2
            instruction.addressSize = has67 ? 4 : 2
        case .bits32:
            instruction.operandSize = has66 ? 2 : 4
            instruction.addressSize = has67 ? 2 : 4
        case .bits64:
            instruction.operandSize = w ? 8 : has66 ? 2 : 4
            instruction.addressSize = has67 ? 4 : 8
        }
    }

    /// Opcode 90: PAUSE with F3, an exchange with R8 with REX.B, else nothing.
    private mutating func decodeNoOperation(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        if mandatory == 2 {
            try decodeLegacy(row(.pause), map: 0, 0x90, bytes)
        } else if extendBase != 0 {
            try decodeLegacy(row(.xchg, .Zv, .rAX), map: 0, 0x90, bytes)
        } else {
            try decodeLegacy(row(.nop), map: 0, 0x90, bytes)
        }
    }

    /// The maps behind 0F.
    private mutating func decodeEscape(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        let opcode = try byte(bytes)
        switch opcode {
        case 0x38:
            let third = try byte(bytes)
            var entry = map38Entry(third, context)
            // MOVBE and CRC32 have an operand size.
            if third & 0xFE != 0xF0 { entry = entry.prefixed }
            try decodeLegacy(entry, map: 2, third, bytes)
        case 0x3A:
            let third = try byte(bytes)
            try decodeLegacy(map3AEntry(third, context).prefixed, map: 3, third, bytes)
        case 0x0F: try decode3DNow(bytes)
        default: try decodeLegacy(twoByteEntry(opcode, context), map: 1, opcode, bytes)
        }
    }

    /// An instruction without VEX or EVEX, described by `entry`.
    private mutating func decodeLegacy(
        _ tableEntry: TableEntry, map: UInt8, _ opcode: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) {
        var entry = tableEntry
        instruction.map = map
        instruction.opcode = opcode
        if entry.group != .none {
            try readModRM(bytes)
            entry = groupEntry(
                entry.group, opcode: opcode, modRM: instruction.modRM, context)
        }
        if entry.mnemonic == .invalid { throw .undefined }
        instruction.mnemonic = entry.mnemonic
        instruction.feature = entry.feature
        if entry.usesModRM && !instruction.hasModRM { try readModRM(bytes) }
        try applyFlags(entry.flags)
        if instruction.hasModRM && instruction.modRM < 0xC0 && !ignoresMod {
            try readMemory(vectorIndex: false, bytes)
        }
        try decodeOperand(entry.a, bytes)
        if entry.b != .none {
            try decodeOperand(entry.b, bytes)
            if entry.c != .none {
                try decodeOperand(entry.c, bytes)
                try decodeOperand(entry.d, bytes)
            }
        }
        if instruction.prefixes.contains(.lock) {
            guard entry.flags.contains(.lock), instruction.operands[0].kind == .memory else {
                throw .undefined
            }
        }
    }

    var mandatoryByte: UInt8 {
        switch mandatory {
        case 1: 0x66
        case 2: 0xF3
        case 3: 0xF2
        default: 0
        }
    }

    /// MOV from and to control and debug registers takes ModRM.rm as a register always.
    private var ignoresMod: Bool {
        instruction.map == 1 && instruction.opcode & 0xFC == 0x20
    }

    private mutating func applyFlags(_ flags: TableEntry.Flags) throws(DecodeFailure) {
        if flags.isEmpty { return }
        if flags.contains(.prefixed) {
            instruction.mandatoryPrefix = mandatoryByte
            // 66 is part of the opcode: the size is what it would be without it.
            if mandatory == 1 && !w { instruction.operandSize = is16 ? 2 : 4 }
        }
        if flags.contains(.byte) { instruction.operandSize = 1 }
        if flags.contains(.natural) { instruction.operandSize = is64 ? 8 : 4 }
        if is64 {
            if flags.contains(.invalidIn64) { throw .undefined }
            if flags.contains(.force64) {
                instruction.operandSize = 8
            } else if flags.contains(.default64) && instruction.operandSize == 4 {
                instruction.operandSize = 8
            } else if flags.contains(.atMost32) && instruction.operandSize == 8 {
                instruction.operandSize = 4
            }
        } else if flags.contains(.only64) {
            throw .undefined
        }
    }

    /// AMD's 3DNow!: ModRM operands, then the opcode.
    private mutating func decode3DNow(_ bytes: Span<UInt8>) throws(DecodeFailure) {
        try decodeLegacy(
            row(.threeDNow, .threeDNow, .Pq, .Qq, .Ib), map: 1, 0x0F, bytes)
        instruction.encoding = .other
    }
}
