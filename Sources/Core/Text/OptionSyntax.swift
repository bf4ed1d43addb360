/// The grammar of `key=value,key=value`: values with commas or brackets in them are quoted, a
/// quote inside quotes is doubled, and brackets hold lists.
package enum OptionSyntax {
    /// Splits at commas outside quotes and brackets. No text gives no items.
    static func split(_ text: String) throws(OptionError) -> [String] {
        if text.isEmpty { return [] }
        var items: [String] = []
        var item: [UInt8] = []
        var isQuoted = false
        var depth = 0
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""): isQuoted.toggle()
            case UInt8(ascii: "[") where !isQuoted: depth += 1
            case UInt8(ascii: "]") where !isQuoted:
                depth -= 1
                if depth < 0 { throw OptionError("']' without '[' in '\(text)'") }
            case UInt8(ascii: ",") where !isQuoted && depth == 0:
                items.append(String(decoding: item, as: UTF8.self))
                item = []
                continue
            default: break
            }
            item.append(byte)
        }
        if isQuoted { throw OptionError("a quote is not closed in '\(text)'") }
        if depth > 0 { throw OptionError("'[' without ']' in '\(text)'") }
        items.append(String(decoding: item, as: UTF8.self))
        return items
    }

    /// Takes quotes away and turns doubled ones inside quotes into one. A list keeps its quotes:
    /// they are its items'.
    static func unquote(_ text: String) throws(OptionError) -> String {
        guard text.utf8.contains(UInt8(ascii: "\"")), !text.hasPrefix("[") else { return text }
        var result: [UInt8] = []
        var isQuoted = false
        var previousClosed = false
        for byte in text.utf8 {
            guard byte == UInt8(ascii: "\"") else {
                result.append(byte)
                previousClosed = false
                continue
            }
            // The second of two quotes inside quotes: the first did not close anything.
            if previousClosed { result.append(byte) }
            previousClosed = isQuoted
            isQuoted.toggle()
        }
        if isQuoted { throw OptionError("a quote is not closed in '\(text)'") }
        return String(decoding: result, as: UTF8.self)
    }

    /// A value in a form that `unquote` gives back.
    package static func quote(_ text: String) -> String {
        let parts = text.split(separator: "\"", omittingEmptySubsequences: false)
        return "\"\(parts.joined(separator: "\"\""))\""
    }

    /// The parts before and after the first `=`; without one, only a first part.
    static func keyAndValue(_ item: String) -> (key: String, value: String?) {
        guard let equals = item.utf8.firstIndex(of: UInt8(ascii: "=")) else { return (item, nil) }
        return (String(item[..<equals]), String(item[item.utf8.index(after: equals)...]))
    }
}
