/// Why a command was not done, as clients are told.
package struct MonitorError: Error, Equatable, Sendable {
    /// What programs tell errors apart by.
    package enum Class: String, Sendable {
        case generic = "GenericError"
        case commandNotFound = "CommandNotFound"
        case deviceNotFound = "DeviceNotFound"
    }

    package let kind: Class
    /// A sentence for people.
    package let description: String

    package init(_ description: String, _ kind: Class = .generic) {
        self.kind = kind
        self.description = description
    }
}
