package import Core
internal import Glibc

/// What a guest's names of extended attributes are called on the host, by rules that are written as
/// virtiofsd's are:
///
///     :prefix:all::user.virtiofs.:       user.a is user.virtiofs.user.a on the host
///     /bad/server//security./            the guest is not shown the host's names with security.
///     |map|trusted.|user.virtiofs.|      all that it takes to keep trusted. elsewhere
///
/// The first character of a rule stands between its parts. The first rule that fits counts, and what
/// fits none is refused.
package struct AttributeMap: Equatable, Sendable {
    enum Action: String {
        /// The host's name is the guest's with another text in front.
        case prefix
        case ok
        /// Refused, and not shown.
        case bad
        /// As if the file system had none of them.
        case unsupported
    }

    struct Rule: Equatable {
        let action: Action
        /// Fits names that come from the guest.
        var isClient = true
        /// Fits names that come from the host.
        var isServer = true
        /// What the guest's names begin with.
        var key: [UInt8] = []
        /// What the host's names begin with.
        var prepend: [UInt8] = []
    }

    private(set) var rules: [Rule] = []

    package init(_ text: String) throws(OptionError) {
        var rest = Array(text.utf8)[...]
        var isOver = false
        while let separator = Self.skipSpace(&rest) {
            guard !isOver else { throw Self.wrong("'map' must be the last rule") }
            let type = try Self.field(&rest, separator)
            if type == "map" {
                addMap(
                    key: Array(try Self.field(&rest, separator).utf8),
                    prepend: Array(try Self.field(&rest, separator).utf8))
                isOver = true
                continue
            }
            guard let action = Action(rawValue: type) else {
                throw Self.wrong("'\(type)' is not one of prefix, ok, bad, unsupported and map")
            }
            var rule = Rule(action: action)
            switch try Self.field(&rest, separator) {
            case "all": break
            case "client": rule.isServer = false
            case "server": rule.isClient = false
            case let scope: throw Self.wrong("'\(scope)' is not one of client, server and all")
            }
            rule.key = Array(try Self.field(&rest, separator).utf8)
            rule.prepend = Array(try Self.field(&rest, separator).utf8)
            rules.append(rule)
        }
        guard !rules.isEmpty else { throw Self.wrong("there is no rule") }
    }

    private static func wrong(_ text: String) -> OptionError { OptionError("xattrmap: \(text)") }

    /// - Returns: what begins the next rule.
    private static func skipSpace(_ rest: inout ArraySlice<UInt8>) -> UInt8? {
        rest = rest.drop { $0 == 0x20 || (0x09...0x0d).contains($0) }
        return rest.popFirst()
    }

    private static func field(
        _ rest: inout ArraySlice<UInt8>, _ separator: UInt8
    ) throws(OptionError) -> String {
        guard let end = rest.firstIndex(of: separator) else {
            throw wrong("'\(String(decoding: rest, as: UTF8.self))' does not end a rule")
        }
        defer { rest = rest[(end + 1)...] }
        return String(decoding: rest[..<end], as: UTF8.self)
    }

    /// `map` stands for several rules.
    private mutating func addMap(key: [UInt8], prepend: [UInt8]) {
        rules.append(Rule(action: .prefix, key: key, prepend: prepend))
        guard !key.isEmpty else {
            rules.append(Rule(action: .bad))
            return
        }
        // Neither sees or makes what would be something else for the other.
        rules.append(Rule(action: .bad, isClient: false, prepend: key))
        rules.append(Rule(action: .bad, isServer: false, key: prepend))
        rules.append(Rule(action: .ok))
    }

    /// What the host calls an attribute: the name behind these bytes.
    func prefix(of name: UnsafeRawBufferPointer) throws(FUSEError) -> [UInt8] {
        for rule in rules where rule.isClient {
            guard unsafe name.starts(with: rule.key) else { continue }
            switch rule.action {
            case .prefix: return rule.prepend
            case .ok: return []
            case .bad: throw FUSEError(EPERM)
            case .unsupported: throw FUSEError(EOPNOTSUPP)
            }
        }
        throw FUSEError(EPERM)
    }

    /// What the guest calls an attribute of the host's: the name without its first bytes.
    /// - Returns: how many they are; `nil` if it is not shown.
    func hiddenPrefix(_ name: UnsafeRawBufferPointer) -> Int? {
        for rule in rules where rule.isServer {
            guard unsafe name.starts(with: rule.prepend) else { continue }
            switch rule.action {
            case .prefix: return rule.prepend.count
            case .ok: return 0
            case .bad, .unsupported: return nil
            }
        }
        return nil
    }
}
