/// Text with numbers in hexadecimal.
struct HexText {
    private(set) var text = ""

    mutating func add(_ words: String) { text += words }

    mutating func digits(_ value: UInt64, _ count: Int) {
        let digits = String(value, radix: 16)
        for _ in digits.utf8.count..<max(count, digits.utf8.count) { text += "0" }
        text += digits
    }

    mutating func line(
        _ first: String, _ a: UInt64, _ second: String, _ b: UInt64? = nil, _ third: String = ""
    ) {
        text += first + "0x"
        digits(a, 1)
        text += second
        if let b {
            text += "0x"
            digits(b, 1)
        }
        text += third
    }

    /// A new line that starts with an address.
    mutating func number(_ value: UInt64) {
        text += "\n  "
        digits(value, 16)
        text += " "
    }

    mutating func bytes(_ bytes: UnsafeRawPointer, _ count: Int) {
        // SAFETY: the caller's bytes.
        for index in 0..<count {
            text += index == 0 ? "" : " "
            digits(UInt64(unsafe bytes.load(fromByteOffset: index, as: UInt8.self)), 2)
        }
    }
}
