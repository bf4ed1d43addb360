/// Finds the values in a stream of JSON in which nothing need separate them: a client may send half
/// a value, or several at once. What it finds may still be wrong inside.
///
/// As QEMU's: strings may also be in single quotes; after a byte that has no place in JSON, the
/// rest of the line is passed over. Memory is bounded, and so is the depth of what is found.
struct JSONFramer {
    enum Item: Equatable {
        /// A value's text, with double quotes.
        case value([UInt8])
        /// Completes the sentence "JSON parse error, ". The next value is looked for.
        case error(String)
    }

    private enum State {
        case betweenValues
        /// A number, `true` and the like outside of everything else.
        case inWord
        /// In an object or array, outside of strings.
        case inside
        case inString
        /// After a backslash in a string.
        case inEscape
        /// After an error: up to the next control character.
        case recovering
    }

    static let maximumDepth = 64
    private let maximumSize: Int
    private var state = State.betweenValues
    private var quote: UInt8 = 0
    /// The brackets that are open, the innermost in the lowest bit: 1 for a brace.
    private var braces: UInt64 = 0
    private var depth = 0
    private var text: [UInt8] = []

    /// - Parameter maximumSize: of one value.
    init(maximumSize: Int) { self.maximumSize = maximumSize }

    /// Takes bytes away up to the end of the next value or error; `nil` when all are used up.
    mutating func next(_ bytes: inout ArraySlice<UInt8>) -> Item? {
        while let byte = bytes.first {
            // Whatever ends a word may begin something else.
            if state == .inWord, !Self.isWord(byte) { return finish() }
            bytes.removeFirst()
            if let item = take(byte) { return item }
        }
        return nil
    }

    private mutating func take(_ byte: UInt8) -> Item? {
        switch state {
        case .recovering:
            if Self.endsRecovery(byte) { state = .betweenValues }
            return nil
        case .inString, .inEscape: return takeInString(byte)
        case .betweenValues, .inWord, .inside:
            guard text.count < maximumSize else { return tooLong(byte) }
            return takeOutside(byte)
        }
    }

    private mutating func takeOutside(_ byte: UInt8) -> Item? {
        switch byte {
        case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: "\n"):
            // A separator stays one.
            if depth > 0 { text.append(byte) }
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            guard depth < Self.maximumDepth else { return fail("it is nested too deeply", byte) }
            text.append(byte)
            braces = braces << 1 | (byte == UInt8(ascii: "{") ? 1 : 0)
            depth += 1
            state = .inside
        case UInt8(ascii: "}"), UInt8(ascii: "]"): return takeClosing(byte)
        case UInt8(ascii: "\""), UInt8(ascii: "'"):
            text.append(UInt8(ascii: "\""))
            quote = byte
            state = .inString
        case UInt8(ascii: ","), UInt8(ascii: ":"):
            guard depth > 0 else { return stray(byte) }
            text.append(byte)
        case _ where Self.isWord(byte):
            text.append(byte)
            if depth == 0 { state = .inWord }
        default: return fail("a byte (\(byte)) has no place there", byte)
        }
        return nil
    }

    private mutating func takeClosing(_ byte: UInt8) -> Item? {
        let isBrace: UInt64 = byte == UInt8(ascii: "}") ? 1 : 0
        guard depth > 0, braces & 1 == isBrace else { return stray(byte) }
        text.append(byte)
        braces >>= 1
        depth -= 1
        return depth == 0 ? finish() : nil
    }

    private mutating func takeInString(_ byte: UInt8) -> Item? {
        guard !Self.endsRecovery(byte) else { return fail("a string does not end", byte) }
        guard text.count < maximumSize else { return tooLong(byte) }
        switch (state, byte) {
        case (.inEscape, UInt8(ascii: "'")):
            text.append(byte)
            state = .inString
        case (.inEscape, _):
            text += [UInt8(ascii: "\\"), byte]
            state = .inString
        case (_, UInt8(ascii: "\\")): state = .inEscape
        case (_, quote):
            text.append(UInt8(ascii: "\""))
            if depth == 0 { return finish() }
            state = .inside
        case (_, UInt8(ascii: "\"")): text += [UInt8(ascii: "\\"), byte]
        default: text.append(byte)
        }
        return nil
    }

    // MARK: Ends

    private mutating func finish() -> Item {
        defer { reset() }
        return .value(text)
    }

    /// Brackets and separators do not spoil what follows them.
    private mutating func stray(_ byte: UInt8) -> Item {
        reset()
        return .error("stray '\(Unicode.Scalar(byte))'")
    }

    private mutating func tooLong(_ byte: UInt8) -> Item {
        fail("it has more than \(maximumSize) bytes", byte)
    }

    private mutating func fail(_ reason: String, _ byte: UInt8) -> Item {
        reset()
        if !Self.endsRecovery(byte) { state = .recovering }
        return .error(reason)
    }

    private mutating func reset() {
        state = .betweenValues
        text = []
        depth = 0
        braces = 0
    }

    private static func endsRecovery(_ byte: UInt8) -> Bool { byte < 0x20 || byte >= 0xFE }

    private static func isWord(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
            UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."), UInt8(ascii: "E"):
            true
        default: false
        }
    }
}
