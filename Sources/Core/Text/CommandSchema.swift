/// One flag of a program: `--name VALUE` or `--name=VALUE`. Reading it from the parsed command line
/// gives a `Value`.
public struct Flag<Value: Sendable>: Sendable {
    let declaration: AnyFlag

    public var name: String { declaration.name }
    /// The flag for a command's list of flags of all types.
    public var any: AnyFlag { declaration }

    private init(_ declaration: AnyFlag) { self.declaration = declaration }

    /// A flag without a value: given or not.
    public static func present(_ name: String, help: String) -> Flag where Value == Bool {
        Flag(
            AnyFlag(
                name: name, placeholder: nil, help: help, keys: [], isRepeatable: false,
                parse: { _ throws(OptionError) in Box(true) }, combine: { Box(!$0.isEmpty) }))
    }

    /// A flag that may be given once.
    public static func one<Wrapped>(
        _ name: String, _ type: OptionType<Wrapped>, help: String
    ) -> Flag where Value == Wrapped? {
        Flag(
            AnyFlag(name: name, type: type, help: help, isRepeatable: false) { values in
                Box(values.first as Value)
            })
    }

    /// A flag that may be given once and has a default.
    public static func one(
        _ name: String, _ type: OptionType<Value>, default value: Value, help: String
    ) -> Flag {
        let text = type.format(value)
        return Flag(
            AnyFlag(
                name: name, type: type, help: text.isEmpty ? help : "\(help) (default \(text))",
                isRepeatable: false
            ) { values in Box(values.first ?? value) })
    }

    /// A flag that may be given once, described by an option set.
    public static func one(
        _ name: String, _ schema: OptionSchema, help: String
    ) -> Flag where Value == OptionValues? {
        Flag(
            AnyFlag(
                name: name, type: schema.type, help: help, keys: schema.help, isRepeatable: false
            ) { values in Box(values.first as Value) })
    }

    /// A flag that may be given several times.
    public static func many<Element>(
        _ name: String, _ type: OptionType<Element>, help: String
    ) -> Flag where Value == [Element] {
        Flag(AnyFlag(name: name, type: type, help: help, isRepeatable: true) { Box($0) })
    }

    /// A flag that may be given several times, described by an option set.
    public static func many(
        _ name: String, _ schema: OptionSchema, help: String
    ) -> Flag where Value == [OptionValues] {
        Flag(
            AnyFlag(
                name: name, type: schema.type, help: help, keys: schema.help, isRepeatable: true
            ) { Box($0) })
    }
}

/// A flag without its value's type, as commands hold it.
public struct AnyFlag: Sendable {
    let name: String
    /// `nil` for a flag without a value.
    let placeholder: String?
    let help: String
    let keys: [(term: String, text: String)]
    let isRepeatable: Bool
    let parse: @Sendable (String) throws(OptionError) -> any AnyObject & Sendable
    /// Makes the flag's value of the values that were given.
    let combine: @Sendable ([any AnyObject & Sendable]) -> any AnyObject & Sendable

    init(
        name: String, placeholder: String?, help: String, keys: [(term: String, text: String)],
        isRepeatable: Bool,
        parse: @escaping @Sendable (String) throws(OptionError) -> any AnyObject & Sendable,
        combine: @escaping @Sendable ([any AnyObject & Sendable]) -> any AnyObject & Sendable
    ) {
        self.name = name
        self.placeholder = placeholder
        self.help = help
        self.keys = keys
        self.isRepeatable = isRepeatable
        self.parse = parse
        self.combine = combine
    }

    init<Item: Sendable>(
        name: String, type: OptionType<Item>, help: String,
        keys: [(term: String, text: String)] = [], isRepeatable: Bool,
        combine: @escaping @Sendable ([Item]) -> any AnyObject & Sendable
    ) {
        self.init(
            name: name, placeholder: type.placeholder, help: help, keys: keys,
            isRepeatable: isRepeatable,
            parse: { text throws(OptionError) in Box(try type.parse(text)) },
            combine: { boxes in combine(boxes.compactMap { ($0 as? Box<Item>)?.value }) })
    }
}

/// A program's command line: its flags, in groups, and the texts around them in its help.
public struct CommandSchema: Sendable {
    /// Flags that belong together.
    public struct Group: Sendable {
        let title: String
        let flags: [AnyFlag]

        public init(_ title: String, _ flags: [AnyFlag]) {
            self.title = title
            self.flags = flags
        }
    }

    let program: String
    let summary: String
    let groups: [Group]
    /// Further chapters of the help: title and text, which is shown as it is.
    let chapters: [(title: String, text: String)]

    public init(
        _ program: String, summary: String, groups: [Group],
        chapters: [(title: String, text: String)] = []
    ) {
        self.program = program
        self.summary = summary
        self.groups = groups
        self.chapters = chapters
    }

    private var flags: [AnyFlag] { groups.flatMap(\.flags) }

    /// Reads the arguments that follow the program's name.
    public func parse(_ arguments: [String]) throws(OptionError) -> CommandValues {
        var given: [String: [any AnyObject & Sendable]] = [:]
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("-") else {
                throw OptionError("unexpected argument '\(argument)': options start with --")
            }
            let (word, attached) = OptionSyntax.keyAndValue(argument)
            guard let flag = flags.first(where: { "--\($0.name)" == word }) else {
                let names = flags.map { "--\($0.name)" }
                let hint = Nearest.match(word, among: names).map { "did you mean '\($0)'?" }
                throw OptionError("unknown option '\(word)'; \(hint ?? "--help lists all")")
            }
            let text = try value(of: flag, attached: attached, rest: &rest)
            guard flag.isRepeatable || given[flag.name] == nil else {
                throw OptionError("\(word) is given twice")
            }
            do {
                given[flag.name, default: []].append(try flag.parse(text))
            } catch {
                throw error.inside(word)
            }
        }
        var values: [String: any AnyObject & Sendable] = [:]
        for flag in flags { values[flag.name] = flag.combine(given[flag.name] ?? []) }
        return CommandValues(values: values)
    }

    private func value(
        of flag: AnyFlag, attached: String?, rest: inout ArraySlice<String>
    ) throws(OptionError) -> String {
        guard let placeholder = flag.placeholder else {
            if attached != nil { throw OptionError("--\(flag.name) takes no value") }
            return ""
        }
        if let attached { return attached }
        guard let next = rest.popFirst() else {
            throw OptionError("--\(flag.name) needs a value (\(placeholder))")
        }
        return next
    }

    /// What `--help` prints.
    public var help: String {
        var lines = [summary, "", "Usage: \(program) [OPTION...]"]
        for group in groups {
            lines += ["", "\(group.title):"]
            for flag in group.flags {
                let term = flag.placeholder.map { "--\(flag.name) \($0)" } ?? "--\(flag.name)"
                let text = flag.help + (flag.isRepeatable ? " (may be repeated)" : "")
                lines += HelpText.entry(term, text, indent: 2, column: 30)
                for key in flag.keys {
                    lines += HelpText.entry(key.term, key.text, indent: 6, column: 34)
                }
            }
        }
        for chapter in chapters { lines += ["", "\(chapter.title):", chapter.text] }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// What a command line said.
public struct CommandValues: Sendable {
    let values: [String: any AnyObject & Sendable]

    /// The value of a flag of the command that made these values.
    public subscript<Value>(_ flag: Flag<Value>) -> Value {
        guard let box = values[flag.name] as? Box<Value> else {
            preconditionFailure("the command does not declare --\(flag.name) like this")
        }
        return box.value
    }
}

/// Lays out help in two columns.
enum HelpText {
    static let width = 100

    /// A term and its text, which starts at `column` and is broken between words.
    static func entry(_ term: String, _ text: String, indent: Int, column: Int) -> [String] {
        let margin = String(repeating: " ", count: column)
        var lines: [String] = []
        var line = String(repeating: " ", count: indent) + term
        if line.count + 2 > column {
            lines.append(line)
            line = margin
        } else {
            line += String(repeating: " ", count: column - line.count)
        }
        var isStart = true
        for word in text.split(separator: " ") {
            if !isStart, line.count + 1 + word.count > width {
                lines.append(line)
                line = margin
                isStart = true
            }
            line += (isStart ? "" : " ") + word
            isStart = false
        }
        lines.append(line)
        return lines
    }
}
