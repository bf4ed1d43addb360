import TCGDecoder

/// The instruction decoder in all modes.
struct DecoderTarget: FuzzTarget {
    static let name = "decoder"
    static let about = "the instruction decoder, all modes"

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
