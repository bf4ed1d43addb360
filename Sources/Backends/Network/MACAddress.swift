internal import Core

/// The address of a network interface.
package struct MACAddress: Equatable, Sendable, CustomStringConvertible {
    /// Six.
    package let bytes: [UInt8]

    /// Reads `52:54:00:12:34:56`; `nil` if it is not that, or names a group of interfaces.
    package init?(_ text: String) {
        let words = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = words.compactMap { word in
            word.utf8.count == 2 && word.utf8.allSatisfy(Self.isDigit)
                ? UInt8(word, radix: 16) : nil
        }
        guard words.count == 6 else { return nil }
        self.init(bytes: bytes)
    }

    /// `nil` if that is not the address of one interface.
    init?(bytes: [UInt8]) {
        guard bytes.count == 6, bytes[0] & 1 == 0, bytes.contains(where: { $0 > 0 }) else {
            return nil
        }
        self.bytes = bytes
    }

    /// `nil` if that is not the `number` of one.
    init?(number: UInt64) {
        guard number >> 48 == 0 else { return nil }
        self.init(bytes: (0..<6).map { UInt8(truncatingIfNeeded: number >> (40 - 8 * $0)) })
    }

    /// The bytes as one number, the first one highest.
    var number: UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

    private static func isDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
            UInt8(ascii: "A")...UInt8(ascii: "F"):
            true
        default: false
        }
    }

    package var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }

    static let optionType = OptionType<MACAddress>(
        placeholder: "MAC", format: { $0.description }
    ) { text throws(OptionError) in
        guard let address = MACAddress(text) else {
            throw OptionError(
                "'\(text)' is not the address of an interface, such as 52:54:00:12:34:56")
        }
        return address
    }
}
