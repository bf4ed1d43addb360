/// Why decoding stopped.
enum DecodeFailure: Error, BitwiseCopyable {
    case truncated, undefined, tooLong
}

/// One instruction while it is decoded: the result so far and what its operands need.
struct DecodeState {
    var instruction = Instruction()
    var position = 0

    var hasRex = false
    var w = false
    // What the prefixes add to the register numbers of ModRM.reg, SIB.index, ModRM.rm and base.
    // EVEX's fifth bits are apart, for they only apply to vectors.
    var extendReg: UInt8 = 0
    var extendIndex: UInt8 = 0
    var extendBase: UInt8 = 0
    var extendRegHigh: UInt8 = 0
    var extendVvvvHigh: UInt8 = 0
    /// VEX.vvvv, not inverted any more.
    var vvvv: UInt8 = 0
    /// The number of the mandatory prefix: 0 none, 1 66, 2 F3, 3 F2.
    var mandatory: UInt8 = 0
    /// The segment override, or 255.
    var segment: UInt8 = 255
    /// Vector length in bytes as operands use it.
    var vectorLength: UInt8 = 16
    /// The displacement is one byte, which EVEX scales by the size of the access.
    var hasByteDisplacement = false
    var usesVvvv = false

    init(mode: CodeMode) { instruction.mode = mode }

    var is64: Bool { instruction.mode == .bits64 }
    var is16: Bool { instruction.mode == .bits16 }

    var context: EntryContext { EntryContext(prefix: mandatory, w: w, is64: is64) }

    mutating func byte(_ bytes: Span<UInt8>) throws(DecodeFailure) -> UInt8 {
        let at = position
        if at >= 15 { throw .tooLong }
        if at >= bytes.count { throw .truncated }
        position = at &+ 1
        return bytes[at]
    }

    /// The next byte, without consuming it.
    func peek(_ bytes: Span<UInt8>) throws(DecodeFailure) -> UInt8 {
        if position >= 15 { throw .tooLong }
        if position >= bytes.count { throw .truncated }
        return bytes[position]
    }

    /// A little-endian number of `size` bytes, sign-extended.
    mutating func signed(
        _ size: UInt8, _ bytes: Span<UInt8>
    ) throws(DecodeFailure) -> Int64 {
        let end = position &+ Int(size)
        if end > bytes.count || end > 15 {
            throw bytes.count >= 15 || end > 15 ? .tooLong : .truncated
        }
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while position < end {
            value |= UInt64(bytes[position]) << shift
            shift &+= 8
            position &+= 1
        }
        let unused = 64 &- shift
        return Int64(bitPattern: value << unused) >> Int64(unused)
    }

    mutating func append(_ operand: Operand) {
        let count = Int(instruction.operandCount)
        guard count < 4 else { return }
        instruction.operands[count] = operand
        instruction.operandCount &+= 1
    }

    mutating func append(
        _ kind: OperandKind, _ size: UInt8, _ register: UInt8, _ place: OperandPlace = .other
    ) {
        var operand = Operand(kind: kind, size: size, register: register)
        operand.place = kind == .memory ? .rm : place
        append(operand)
    }
}
