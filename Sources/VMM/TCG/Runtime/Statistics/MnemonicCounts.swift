internal import TCGDecoder

/// How often translated code had the interpreter execute which instructions.
// SAFETY: only the CPU's own thread uses it, and others when that has ended.
@safe final class MnemonicCounts {
    private var counts: [UInt64] = []

    /// Decodes the operation's instruction once more: operations do not know their names.
    @inline(never)
    func note(_ op: OperationPointer, of block: Block) {
        let start = Int(op.nextOffset) - Int(op.length)
        // SAFETY: the block's own copy of its bytes.
        let bytes = unsafe UnsafeBufferPointer(
            start: (block.bytes + start).assumingMemoryBound(to: UInt8.self), count: Int(op.length))
        let decoder = Decoder(
            mode: CodeMode(rawValue: UInt8(block.key & ModeKey.codeSize)) ?? .bits64)
        var mnemonic = Mnemonic.invalid
        if case .instruction(let instruction) = unsafe decoder.decode(bytes.span) {
            mnemonic = instruction.mnemonic
        }
        let place = Int(mnemonic.rawValue)
        if place >= counts.count {
            counts += Array(repeating: 0, count: place + 1 - counts.count)
        }
        counts[place] &+= 1
    }

    /// The most frequent ones, the first one first.
    func top(_ count: Int) -> [(name: String, count: UInt64)] {
        counts.enumerated().filter { $0.element > 0 }.sorted { $0.element > $1.element }
            .prefix(count)
            .map { (Self.name(UInt16($0.offset)), $0.element) }
    }

    private static func name(_ rawValue: UInt16) -> String {
        switch Mnemonic(rawValue: rawValue) {
        case .invalid?, nil: "undefined"
        case let mnemonic?: "\(mnemonic)"
        }
    }
}
