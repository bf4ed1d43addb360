internal import Core

/// A command of the monitor: its name, what it takes, and who does it. Nothing else need be said of
/// it anywhere.
package struct MonitorCommand {
    package let name: String
    package let parameters: [MonitorParameter]
    /// Arguments that are not declared are let through; the handler knows what they may be.
    package let takesMore: Bool
    let handler: (MonitorArguments, MonitorReply) -> Void

    /// A command that is answered later.
    /// - Parameter begin: called on the loop's thread. Until it answers, its client's further
    ///   commands wait; those of others do not.
    package init(
        _ name: String, _ parameters: [MonitorParameter] = [], takesMore: Bool = false,
        begin: @escaping (MonitorArguments, MonitorReply) -> Void
    ) {
        self.name = name
        self.parameters = parameters
        self.takesMore = takesMore
        handler = begin
    }

    /// A command that is answered at once.
    /// - Parameter answer: called on the loop's thread, which it must not hold up.
    package init(
        _ name: String, _ parameters: [MonitorParameter] = [], takesMore: Bool = false,
        answer: @escaping (MonitorArguments) throws(MonitorError) -> JSONValue
    ) {
        self.init(name, parameters, takesMore: takesMore) { arguments, reply in
            do throws(MonitorError) {
                reply.succeed(try answer(arguments))
            } catch {
                reply.fail(error)
            }
        }
    }
}

/// A parameter of a command.
package struct MonitorParameter: Sendable {
    package enum Kind: String, Sendable { case string, integer, boolean, array, object, any }

    package let name: String
    package let kind: Kind
    package let isRequired: Bool

    /// A parameter that may be left out.
    package static func optional(_ name: String, _ kind: Kind) -> Self {
        Self(name: name, kind: kind, isRequired: false)
    }

    package static func required(_ name: String, _ kind: Kind) -> Self {
        Self(name: name, kind: kind, isRequired: true)
    }

    func takes(_ value: JSONValue) -> Bool {
        switch (kind, value) {
        case (.string, .string), (.integer, .integer), (.boolean, .bool), (.array, .array),
            (.object, .object), (.any, _):
            true
        default: false
        }
    }
}

/// What a client gave to a command: every argument is declared and of its type, and none that must
/// be there is missing.
package struct MonitorArguments: Sendable {
    package let members: [JSONValue.Member]

    package subscript(_ name: String) -> JSONValue? {
        members.first { $0.name == name }?.value
    }

    package func string(_ name: String) -> String? { self[name]?.string }
    package func integer(_ name: String) -> Int64? { self[name]?.integer }
    package func bool(_ name: String) -> Bool? { self[name]?.bool }

    init(_ members: [JSONValue.Member], for command: MonitorCommand) throws(MonitorError) {
        for member in members {
            guard let parameter = command.parameters.first(where: { $0.name == member.name })
            else {
                if command.takesMore { continue }
                throw MonitorError("Parameter '\(member.name)' is unexpected")
            }
            guard parameter.takes(member.value) else {
                throw MonitorError(
                    "Invalid parameter type for '\(member.name)', expected: "
                        + parameter.kind.rawValue)
            }
        }
        for parameter in command.parameters
        where parameter.isRequired && !members.contains(where: { $0.name == parameter.name }) {
            throw MonitorError("Parameter '\(parameter.name)' is missing")
        }
        self.members = members
    }
}

/// How a command is answered: once, on the loop's thread. One that is forgotten is an error for the
/// client.
// SAFETY: used on the loop's thread only; it may travel through others.
package final class MonitorReply: @unchecked Sendable {
    private var answer: ((Result<JSONValue, MonitorError>) -> Void)?

    init(_ answer: @escaping (Result<JSONValue, MonitorError>) -> Void) { self.answer = answer }

    deinit { fail(MonitorError("The command was given up")) }

    package func succeed(_ value: JSONValue = [:]) { give(.success(value)) }

    package func fail(_ error: MonitorError) { give(.failure(error)) }

    private func give(_ result: Result<JSONValue, MonitorError>) {
        guard let answer else { return }
        self.answer = nil
        answer(result)
    }
}
