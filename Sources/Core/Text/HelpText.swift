/// Lays out help.
package enum HelpText {
    static let width = 100

    /// A term and its text, which starts at `column` and is broken between words.
    package static func entry(
        _ term: String, _ text: String, indent: Int = 2, column: Int = 30
    ) -> [String] {
        let margin = spaces(column)
        var lines = wrapped(text, margin)
        let start = spaces(indent) + term
        if start.count + 2 > column { return [start] + lines }
        lines[0] = start + lines[0].dropFirst(start.count)
        return lines
    }

    /// A text of its own, broken between words.
    package static func paragraph(_ text: String) -> String {
        wrapped(text, spaces(2)).joined(separator: "\n")
    }

    /// At least one line.
    private static func wrapped(_ text: String, _ margin: String) -> [String] {
        var lines: [String] = []
        var line = margin
        for word in text.split(separator: " ") {
            if line.count > margin.count, line.count + 1 + word.count > width {
                lines.append(line)
                line = margin
            }
            line += (line.count > margin.count ? " " : "") + word
        }
        return lines + [line]
    }

    private static func spaces(_ count: Int) -> String { String(repeating: " ", count: count) }
}
