/// One flag of a program: `--name VALUE` or `--name=VALUE`. Reading it from the parsed command line
/// gives a `Value`.
public struct Flag<Value: Sendable>: Sendable {
    let declaration: AnyFlag
    /// Makes the flag's value of the values that were given.
    let combine: @Sendable ([any AnyObject & Sendable]) -> Value

    public var name: String { declaration.name }
    /// The flag for a command's list of flags of all types.
    public var any: AnyFlag { declaration }

    private init(
        _ declaration: AnyFlag,
        combine: @escaping @Sendable ([any AnyObject & Sendable]) -> Value
    ) {
        self.declaration = declaration
        self.combine = combine
    }

    /// A flag without a value: given or not.
    public static func present(_ name: String, help: String) -> Flag where Value == Bool {
        Flag(
            AnyFlag(
                name: name, makePlaceholder: nil, makeHelp: { help }, isRepeatable: false,
                parse: { _ throws(OptionError) in Box(true) })
        ) { !$0.isEmpty }
    }

    /// A flag that may be given once.
    public static func one<Wrapped>(
        _ name: String, _ type: OptionType<Wrapped>, help: String
    ) -> Flag where Value == Wrapped? {
        Flag(AnyFlag(name, type, makeHelp: { help })) { given in
            given.first.map { unbox($0, name) }
        }
    }

    /// A flag that may be given once and has a default.
    public static func one(
        _ name: String, _ type: OptionType<Value>, default value: Value, help: String
    ) -> Flag {
        let makeHelp: @Sendable () -> String = {
            let text = type.format(value)
            return text.isEmpty ? help : "\(help) (default \(text))"
        }
        return Flag(AnyFlag(name, type, makeHelp: makeHelp)) { given in
            given.first.map { unbox($0, name) } ?? value
        }
    }

    /// A flag that may be given once, described by an option set.
    public static func one(
        _ name: String, _ schema: OptionSchema, help: String
    ) -> Flag where Value == OptionValues? {
        Flag(AnyFlag(name, schema, makeHelp: { help }, isRepeatable: false)) { given in
            given.first.map { unbox($0, name) }
        }
    }

    /// A flag that may be given several times.
    public static func many<Element>(
        _ name: String, _ type: OptionType<Element>, help: String
    ) -> Flag where Value == [Element] {
        Flag(AnyFlag(name, type, makeHelp: { help }, isRepeatable: true)) { given in
            given.map { unbox($0, name) }
        }
    }

    /// A flag that may be given several times, described by an option set.
    public static func many(
        _ name: String, _ schema: OptionSchema, help: String
    ) -> Flag where Value == [OptionValues] {
        Flag(AnyFlag(name, schema, makeHelp: { help }, isRepeatable: true)) { given in
            given.map { unbox($0, name) }
        }
    }
}

/// What the flag `name` has parsed.
private func unbox<Item: Sendable>(_ value: any AnyObject & Sendable, _ name: String) -> Item {
    guard let box = value as? Box<Item> else {
        preconditionFailure("the command does not declare --\(name) like this")
    }
    return box.value
}

/// A flag without its value's type, as commands hold it. What only help and errors show is made for
/// them: every start of a program declares all its flags.
public struct AnyFlag: Sendable {
    let name: String
    /// `nil` for a flag without a value.
    let makePlaceholder: (@Sendable () -> String)?
    let makeHelp: @Sendable () -> String
    let makeKeys: @Sendable () -> [(term: String, text: String)]
    let isRepeatable: Bool
    /// The flag may stand alone; its value is then empty.
    let isValueOptional: Bool
    let parse: @Sendable (String) throws(OptionError) -> any AnyObject & Sendable

    init(
        name: String, makePlaceholder: (@Sendable () -> String)?,
        makeHelp: @escaping @Sendable () -> String,
        makeKeys: @escaping @Sendable () -> [(term: String, text: String)] = { [] },
        isRepeatable: Bool, isValueOptional: Bool = false,
        parse: @escaping @Sendable (String) throws(OptionError) -> any AnyObject & Sendable
    ) {
        self.name = name
        self.makePlaceholder = makePlaceholder
        self.makeHelp = makeHelp
        self.makeKeys = makeKeys
        self.isRepeatable = isRepeatable
        self.isValueOptional = isValueOptional
        self.parse = parse
    }

    init<Item: Sendable>(
        _ name: String, _ type: OptionType<Item>, makeHelp: @escaping @Sendable () -> String,
        isRepeatable: Bool = false
    ) {
        self.init(
            name: name, makePlaceholder: type.makePlaceholder, makeHelp: makeHelp,
            isRepeatable: isRepeatable
        ) { text throws(OptionError) in Box(try type.parse(text)) }
    }

    init(
        _ name: String, _ schema: OptionSchema, makeHelp: @escaping @Sendable () -> String,
        isRepeatable: Bool
    ) {
        self.init(
            name: name, makePlaceholder: { schema.placeholder }, makeHelp: makeHelp,
            makeKeys: { schema.help }, isRepeatable: isRepeatable,
            isValueOptional: schema.mayBeEmpty
        ) { text throws(OptionError) in Box(try schema.parse(text)) }
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
    /// Names of other programs, which come first if at all.
    let programs: [String]
    /// Further chapters of the help: title and text, which is shown as it is.
    let makeChapters: @Sendable () -> [(title: String, text: String)]

    public init(
        _ program: String, summary: String, groups: [Group], programs: [String] = [],
        chapters: @escaping @autoclosure @Sendable () -> [(title: String, text: String)] = []
    ) {
        self.program = program
        self.summary = summary
        self.groups = groups
        self.programs = programs
        makeChapters = chapters
    }

    private var flags: [AnyFlag] { groups.flatMap { $0.flags } }

    /// Reads the arguments that follow the program's name.
    public func parse(_ arguments: [String]) throws(OptionError) -> CommandValues {
        let flags = flags
        var given: [String: [any AnyObject & Sendable]] = [:]
        var rest = arguments[...]
        while let word = rest.popFirst() {
            let argument = Self.helpWords.contains(word) ? "--help" : word
            guard argument.hasPrefix("-") else {
                if arguments.first == word, let name = Nearest.match(word, among: programs) {
                    throw OptionError("there is no program '\(word)'; did you mean '\(name)'?")
                }
                throw OptionError("unexpected argument '\(argument)': options start with --")
            }
            let (word, attached) = OptionSyntax.keyAndValue(argument)
            let name = word.hasPrefix("--") ? String(word.dropFirst(2)) : ""
            guard let flag = flags.first(where: { $0.name == name }) else {
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
        return CommandValues(given: given)
    }

    /// What people type besides `--help`.
    private static let helpWords = ["-h", "help"]

    private func value(
        of flag: AnyFlag, attached: String?, rest: inout ArraySlice<String>
    ) throws(OptionError) -> String {
        guard let makePlaceholder = flag.makePlaceholder else {
            if attached != nil { throw OptionError("--\(flag.name) takes no value") }
            return ""
        }
        if let attached { return attached }
        if let next = rest.first, !next.hasPrefix("--"), next != "-h" {
            rest.removeFirst()
            return next
        }
        if flag.isValueOptional { return "" }
        let hint =
            rest.isEmpty ? "" : "; one that looks like an option is written --\(flag.name)=VALUE"
        throw OptionError("--\(flag.name) needs a value (\(makePlaceholder()))\(hint)")
    }

    /// What `--help` prints.
    public var help: String {
        var lines = [summary, "", "Usage: \(program) [OPTION...]"]
        for group in groups {
            lines += ["", "\(group.title):"]
            for flag in group.flags {
                let term = "--\(flag.name)" + (flag.makePlaceholder.map { " " + $0() } ?? "")
                let text = flag.makeHelp() + (flag.isRepeatable ? " (may be repeated)" : "")
                lines += HelpText.entry(term, text)
                for key in flag.makeKeys() {
                    lines += HelpText.entry(key.term, key.text, indent: 6, column: 34)
                }
            }
        }
        for chapter in makeChapters() { lines += ["", "\(chapter.title):", chapter.text] }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// What a command line said.
public struct CommandValues: Sendable {
    /// The values of the flags that were given.
    let given: [String: [any AnyObject & Sendable]]

    /// The value of a flag of the command that made these values.
    public subscript<Value>(_ flag: Flag<Value>) -> Value { flag.combine(given[flag.name] ?? []) }
}
