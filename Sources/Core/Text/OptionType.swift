/// What the user asked for makes no sense; one sentence that says what and why.
public struct OptionError: Error, Equatable, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }

    /// The same error with where it happened in front, for example `--disk: ...`.
    package func inside(_ place: String) -> OptionError {
        OptionError("\(place): \(description)")
    }
}

/// How a value is written on the command line, and how it is shown in help.
public struct OptionType<Value: Sendable>: Sendable {
    /// What stands for the value in help, for example `PATH`. Made only for help and errors.
    let makePlaceholder: @Sendable () -> String
    /// Reads a value; the error completes the sentence that begins with the value's place.
    let parse: @Sendable (String) throws(OptionError) -> Value
    /// Writes a default for help.
    let format: @Sendable (Value) -> String

    public init(
        placeholder: @escaping @autoclosure @Sendable () -> String,
        format: @escaping @Sendable (Value) -> String,
        parse: @escaping @Sendable (String) throws(OptionError) -> Value
    ) {
        makePlaceholder = placeholder
        self.parse = parse
        self.format = format
    }

    var placeholder: String { makePlaceholder() }
}

extension OptionType where Value == String {
    /// Any text.
    public static var string: Self { text("TEXT") }

    /// The name of a file; not empty.
    public static var path: Self {
        OptionType(placeholder: "PATH", format: { $0 }) { text throws(OptionError) in
            guard !text.isEmpty else { throw OptionError("a path must not be empty") }
            guard !text.utf8.contains(0) else { throw OptionError("a path cannot hold a NUL") }
            return text
        }
    }

    /// Any text, shown as `placeholder` in help.
    public static func text(_ placeholder: String) -> Self {
        OptionType(placeholder: placeholder, format: { $0 }) { text throws(OptionError) in text }
    }
}

extension OptionType where Value == Bool {
    /// `on` or `off`.
    public static var bool: Self {
        OptionType(placeholder: "on|off", format: { $0 ? "on" : "off" }) {
            text throws(OptionError) in
            switch text {
            case "on", "true": return true
            case "off", "false": return false
            default: throw OptionError("'\(text)' is neither on nor off")
            }
        }
    }
}

extension OptionType where Value == UInt64 {
    /// A whole number in `range`, decimal or hexadecimal with `0x`.
    public static func integer(_ range: ClosedRange<UInt64> = 0...UInt64.max) -> Self {
        OptionType(placeholder: "N", format: { String($0) }) { text throws(OptionError) in
            guard let number = number(text) else {
                throw OptionError("'\(text)' is not a whole number")
            }
            guard range.contains(number) else {
                throw OptionError(
                    "\(number) is not between \(range.lowerBound) and \(range.upperBound)")
            }
            return number
        }
    }

    /// Bytes, with K, M, G or T for powers of 1024: `512M`.
    public static var size: Self {
        OptionType(placeholder: "SIZE", format: formatSize) { text throws(OptionError) in
            guard let size = size(text) else {
                throw OptionError("'\(text)' is not a size such as 512M or 2G")
            }
            return size
        }
    }

    static func number(_ text: String) -> UInt64? {
        if text.hasPrefix("0x") || text.hasPrefix("0X") {
            return digits(text.dropFirst(2), radix: 16)
        }
        return digits(text[...], radix: 10)
    }

    private static func digits(_ text: Substring, radix: Int) -> UInt64? {
        // `UInt64(_:radix:)` would also take a sign.
        guard let first = text.utf8.first, first != UInt8(ascii: "+"), first != UInt8(ascii: "-")
        else { return nil }
        return UInt64(text, radix: radix)
    }

    private static func size(_ text: String) -> UInt64? {
        let units: [Character: UInt64] = ["K": 10, "M": 20, "G": 30, "T": 40]
        guard let last = text.uppercased().last else { return nil }
        guard let shift = units[last] else { return number(text) }
        guard let count = number(String(text.dropLast())) else { return nil }
        let (bytes, overflow) = count.multipliedReportingOverflow(by: 1 << shift)
        return overflow ? nil : bytes
    }

    /// The shortest way to write a size, for example `512M`.
    static func formatSize(_ size: UInt64) -> String {
        for (unit, shift) in [("T", 40), ("G", 30), ("M", 20), ("K", 10)] as [(String, UInt64)]
        where size != 0 && size.trailingZeroBitCount >= Int(shift) {
            return "\(size >> shift)\(unit)"
        }
        return String(size)
    }
}

extension OptionType {
    /// One of an enumeration's values.
    public static func choice(_ type: Value.Type) -> Self
    where Value: CaseIterable & RawRepresentable, Value.RawValue == String {
        choice(among: Array(type.allCases))
    }

    /// One of some of an enumeration's values.
    public static func choice(among values: [Value]) -> Self
    where Value: RawRepresentable, Value.RawValue == String {
        let names = values.map { $0.rawValue }
        return OptionType(
            placeholder: names.joined(separator: "|"), format: { $0.rawValue }
        ) { text throws(OptionError) in
            guard names.contains(text), let value = Value(rawValue: text) else {
                let hint = Nearest.match(text, among: names).map { "; did you mean '\($0)'?" }
                throw OptionError(
                    "'\(text)' is not one of \(names.joined(separator: ", "))\(hint ?? "")")
            }
            return value
        }
    }

    /// Values in brackets, `[a,b]`. A single value needs no brackets.
    public static func list<Element: Sendable>(of element: OptionType<Element>) -> Self
    where Value == [Element] {
        let format: @Sendable (Value) -> String = { values in
            "[" + values.map(element.format).joined(separator: ",") + "]"
        }
        return OptionType(placeholder: "[\(element.placeholder),...]", format: format) {
            text throws(OptionError) in
            guard text.hasPrefix("["), text.hasSuffix("]"), text.utf8.count >= 2 else {
                return [try element.parse(text)]
            }
            var values: [Element] = []
            for item in try OptionSyntax.split(String(text.dropFirst().dropLast())) {
                values.append(try element.parse(try OptionSyntax.unquote(item)))
            }
            return values
        }
    }
}
