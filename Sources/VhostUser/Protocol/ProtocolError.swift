package import Core

/// What a peer got wrong: in which message, in which field, and how.
package struct ProtocolError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The message by its name in the specification, for example `SET_VRING_NUM`.
    package let message: String
    package let field: String
    package let reason: String
    /// Whether the connection can go on although the peer is not told: what was asked for had no
    /// effect, and nothing else relies on it.
    let isHarmless: Bool

    package init(
        _ message: String, _ field: String, _ reason: String, isHarmless: Bool = false
    ) {
        self.message = message
        self.field = field
        self.reason = reason
        self.isHarmless = isHarmless
    }

    /// For example `SET_VRING_NUM: index: there is no queue 9`.
    package var description: String { "\(message): \(field): \(reason)" }
}

/// Why a connection cannot go on.
package enum ConnectionError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The peer has closed its end, between two messages.
    case closed
    /// The peer has not answered in time.
    case timedOut(String)
    case system(SystemError)
    case protocolError(ProtocolError)

    package var description: String {
        switch self {
        case .closed: "the peer closed the connection"
        case .timedOut(let message): "the peer did not answer \(message) in time"
        case .system(let error): "\(error)"
        case .protocolError(let error): "\(error)"
        }
    }
}
