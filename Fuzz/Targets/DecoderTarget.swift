import TCGDecoder

/// The instruction decoder in all modes.
struct DecoderTarget: FuzzTarget {
    static let name = "decoder"
    static let about = "the instruction decoder, all modes"

    /// An instruction of every kind of encoding, in each mode.
    static let seeds: [[UInt8]] = (0..<3 as Range<UInt8>).flatMap { mode in
        [
            [0x90], [0x48, 0x8b, 0x84, 0xc8, 1, 2, 3, 4],
            [0x66, 0x67, 0xf3, 0x41, 0x0f, 0xb8, 0xc1],
            [0xf0, 0x65, 0x0f, 0xb1, 0x0d, 1, 2, 3, 4], [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8],
            [0xc8, 0x10, 0, 1], [0x9a, 1, 2, 3, 4, 5, 6], [0xd9, 0x74, 0x24, 0x10],
            [0x66, 0x0f, 0x38, 0x17, 0xc1], [0x66, 0x0f, 0x3a, 0x0f, 0xc1, 7],
            [0x0f, 0x0f, 0xc1, 0x9e],
            [0xc5, 0xf8, 0x58, 0xc1], [0xc4, 0xe2, 0x79, 0x18, 0x44, 0x88, 8],
            [0xc4, 0xe3, 0x79, 0x0f, 0xc1, 3], [0x8f, 0xe9, 0x78, 0x81, 0xc0],
            [0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1], [0x62, 0xf2, 0xfd, 0x29, 0x92, 0x44, 0x88, 1],
        ].map { [mode] + $0 }
    }
    static let testCount = 20_000

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let decoder = Decoder(mode: input.pick([.bits64, .bits32, .bits16]))
        let bytes = input.take(20)
        guard case .instruction(let whole) = decoder.decode(bytes) else { return false }
        let length = Int(whole.length)
        try require(length > 0 && length <= 15 && length <= bytes.count, "the length is \(length)")
        try require(whole.operandCount <= 4, "there are \(whole.operandCount) operands")
        for index in 0..<Int(whole.operandCount) {
            try check(whole.operands[index])
        }
        try check(whole.memory)
        // A beginning is truncated, and what follows does not matter.
        for count in 0..<length {
            guard case .truncated = decoder.decode(Array(bytes.prefix(count))) else {
                throw FuzzFailure("the first \(count) of \(length) bytes are not truncated")
            }
        }
        guard case .instruction(let exact) = decoder.decode(Array(bytes.prefix(length))),
            exact.length == whole.length, exact.memory == whole.memory,
            exact.immediate == whole.immediate, exact.mnemonic == whole.mnemonic
        else { throw FuzzFailure("alone, the \(length) bytes are something else") }
        return true
    }

    /// The interpreter indexes its registers with these numbers unchecked.
    private func check(_ operand: Operand) throws {
        let limit: UInt8 =
            switch operand.kind {
            case .general: 16
            case .generalHigh: 4
            case .segment: 6
            case .x87, .mmx, .mask, .tile: 8
            case .vector: 32
            case .control, .debug: 16
            default: 255
            }
        try require(
            operand.register < limit, "\(operand.kind) has the register \(operand.register)")
    }

    private func check(_ memory: MemoryOperand) throws {
        try require(memory.segment < 6, "the segment is \(memory.segment)")
        try require(memory.base <= 17, "the base is \(memory.base)")
        try require(memory.hasVectorIndex || memory.index <= 16, "the index is \(memory.index)")
        try require([1, 2, 4, 8].contains(memory.scale), "the scale is \(memory.scale)")
    }
}
