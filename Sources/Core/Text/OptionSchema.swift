/// One key of an option set: its name, type, default and help. Reading it from the parsed values
/// gives a `Value`.
public struct OptionKey<Value: Sendable>: Sendable {
    let declaration: AnyOptionKey
    /// The value where the key is left out; `nil` if it must be given.
    let makeDefault: (@Sendable () -> Value)?

    public var name: String { declaration.name }

    /// A key with a default.
    public init(_ name: String, _ type: OptionType<Value>, default value: Value, help: String) {
        declaration = AnyOptionKey(
            name: name, makePlaceholder: type.makePlaceholder, help: help,
            makeDefaultText: { type.format(value) }, isRequired: false
        ) { text throws(OptionError) in Box(try type.parse(text)) }
        makeDefault = { value }
    }

    /// A key that may be left out.
    public init<Wrapped>(_ name: String, _ type: OptionType<Wrapped>, help: String)
    where Value == Wrapped? {
        declaration = AnyOptionKey(
            name: name, makePlaceholder: type.makePlaceholder, help: help, makeDefaultText: nil,
            isRequired: false
        ) { text throws(OptionError) in Box(try type.parse(text) as Value) }
        makeDefault = { nil }
    }

    /// A key that must be given.
    public static func required(_ name: String, _ type: OptionType<Value>, help: String) -> Self {
        Self(
            required: AnyOptionKey(
                name: name, makePlaceholder: type.makePlaceholder, help: help,
                makeDefaultText: nil, isRequired: true
            ) { text throws(OptionError) in Box(try type.parse(text)) })
    }

    private init(required declaration: AnyOptionKey) {
        self.declaration = declaration
        makeDefault = nil
    }

    /// The key for a schema's list of keys of all types.
    public var any: AnyOptionKey { declaration }
}

/// A parsed value of a type that only its key knows.
final class Box<Value: Sendable>: Sendable {
    let value: Value

    init(_ value: Value) { self.value = value }
}

/// A key without its value's type, as schemas hold it. What only help and errors show is made for
/// them: every start of a program declares all its keys.
public struct AnyOptionKey: Sendable {
    package let name: String
    let makePlaceholder: @Sendable () -> String
    let help: String
    let makeDefaultText: (@Sendable () -> String)?
    package let isRequired: Bool
    let parse: @Sendable (String) throws(OptionError) -> any AnyObject & Sendable

    var placeholder: String { makePlaceholder() }

    /// The same key for a schema in which it may be left out; then it has no value.
    var optional: AnyOptionKey {
        AnyOptionKey(
            name: name, makePlaceholder: makePlaceholder, help: help,
            makeDefaultText: makeDefaultText, isRequired: false, parse: parse)
    }
}

/// An option set: what can be said of one configurable thing, declared once.
public struct OptionSchema: Sendable {
    /// What the set describes, for example `disk`.
    public let name: String
    public let keys: [AnyOptionKey]
    /// The key that a first item without `=` is the value of.
    let leadingKey: String?
    /// Nothing need be said: the set's flag can stand alone.
    let mayBeEmpty: Bool

    public init(
        _ name: String, leadingKey: String? = nil, mayBeEmpty: Bool = false, keys: [AnyOptionKey]
    ) {
        self.name = name
        self.keys = keys
        self.leadingKey = leadingKey
        self.mayBeEmpty = mayBeEmpty
    }

    /// This set with more keys, where none must be given: for who adds another way to say it.
    public func extended(with more: [AnyOptionKey]) -> OptionSchema {
        OptionSchema(
            name, leadingKey: leadingKey, mayBeEmpty: mayBeEmpty,
            keys: keys.map { $0.optional } + more)
    }

    /// Reads `key=value,key=value`. Keys left out have their defaults.
    public func parse(_ text: String) throws(OptionError) -> OptionValues {
        var values: [String: any AnyObject & Sendable] = [:]
        var given: [(key: String, text: String)] = []
        for (index, item) in try OptionSyntax.split(text).enumerated() {
            let (key, value) = try assignment(item, isFirst: index == 0)
            guard values[key.name] == nil else {
                throw OptionError("key '\(key.name)' is given twice")
            }
            given.append((key.name, value))
            do {
                values[key.name] = try key.parse(try OptionSyntax.unquote(value))
            } catch {
                throw error.inside(key.name)
            }
        }
        for key in keys where key.isRequired && values[key.name] == nil {
            throw OptionError("key '\(key.name)' is missing")
        }
        return OptionValues(schema: name, values: values, given: given)
    }

    private func assignment(
        _ item: String, isFirst: Bool
    ) throws(OptionError) -> (AnyOptionKey, String) {
        let (word, value) = OptionSyntax.keyAndValue(item)
        if let key = keys.first(where: { $0.name == word }) {
            if let value { return (key, value) }
            // A switch that is only named is on.
            if key.placeholder == OptionType.bool.placeholder { return (key, "on") }
            throw OptionError("key '\(word)' needs a value (\(word)=\(key.placeholder))")
        }
        if value == nil, isFirst, let leading = keys.first(where: { $0.name == leadingKey }) {
            return (leading, item)
        }
        if word.isEmpty { throw OptionError("'\(item)' does not name a key") }
        throw OptionError("unknown key '\(word)'\(Nearest.hint(word, among: keys.map { $0.name }))")
    }

    /// A key that must be given and was not, in values of this set's extension.
    public func firstMissing(_ values: OptionValues) -> String? {
        keys.first { key in key.isRequired && !values.given.contains { $0.key == key.name } }?.name
    }

    /// What the user gave for the leading key, without its quotes.
    public func leadingText(_ values: OptionValues) -> String? {
        leadingKey.flatMap { values.text(of: $0) }
    }

    /// One line per key: how it is written, what it means, its default.
    public var help: [(term: String, text: String)] {
        keys.map { key in
            var text = key.help
            if key.isRequired { text += " (required)" }
            if let value = key.makeDefaultText?(), !value.isEmpty { text += " (default \(value))" }
            return ("\(key.name)=\(key.placeholder)", text)
        }
    }

    /// Checks a value that is given for a key in another way.
    package func check(_ text: String, for key: String) throws(OptionError) {
        guard let key = keys.first(where: { $0.name == key }) else {
            preconditionFailure("option set \(name) has no key '\(key)'")
        }
        _ = try key.parse(text)
    }

    /// What stands for the set in help: names in brackets may be left out.
    var placeholder: String {
        if mayBeEmpty {
            "[KEY=VALUE,...]"
        } else if let leading = keys.first(where: { $0.name == leadingKey }) {
            "[\(leading.name)=]\(leading.placeholder)" + (keys.count > 1 ? "[,KEY=VALUE...]" : "")
        } else {
            keys.filter(\.isRequired).map { "\($0.name)=\($0.placeholder)" }.joined(separator: ",")
                + (keys.allSatisfy(\.isRequired) ? "" : ",...")
        }
    }
}

/// The values of one option set.
public struct OptionValues: Equatable, Sendable {
    let schema: String
    /// Of the keys that were given.
    let values: [String: any AnyObject & Sendable]
    /// As the user wrote it, quotes included.
    let given: [(key: String, text: String)]

    /// The value of a key of the schema that made these values.
    public subscript<Value>(_ key: OptionKey<Value>) -> Value {
        guard let value = values[key.name] else {
            guard let makeDefault = key.makeDefault else {
                preconditionFailure("option set \(schema) has no default for '\(key.name)'")
            }
            return makeDefault()
        }
        guard let box = value as? Box<Value> else {
            preconditionFailure("option set \(schema) does not declare '\(key.name)' like this")
        }
        return box.value
    }

    /// Whether the user gave the key, rather than leaving it at its default.
    public func isGiven<Value>(_ key: OptionKey<Value>) -> Bool {
        given.contains { $0.key == key.name }
    }

    /// These values without some keys, which are for somebody else.
    package func without(_ keys: [AnyOptionKey]) -> OptionValues {
        let names = keys.map { $0.name }
        return OptionValues(
            schema: schema, values: values.filter { !names.contains($0.key) },
            given: given.filter { !names.contains($0.key) })
    }

    /// How many keys the user gave.
    public var givenCount: Int { given.count }

    /// What the user gave, in a form that the same schema reads; for handing it to another program.
    public var text: String { given.map { "\($0.key)=\($0.text)" }.joined(separator: ",") }

    /// The number that the user gave for a key of that name; `nil` if there is none.
    package func number(of key: String) -> UInt64? { (values[key] as? Box<UInt64>)?.value }

    /// What the user gave for a key, without its quotes.
    public func text(of key: String) -> String? {
        guard let text = given.first(where: { $0.key == key })?.text else { return nil }
        return try? OptionSyntax.unquote(text)
    }

    /// Values are the same if the user has said the same.
    public static func == (a: OptionValues, b: OptionValues) -> Bool {
        a.schema == b.schema && a.text == b.text
    }
}
