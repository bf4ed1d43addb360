package import VhostUser

/// A kind of device that can be served, whose options are read only when it is used: that takes a
/// good part of a start.
package struct AvailableBackend: Sendable {
    /// The kind's name.
    package let name: String
    /// The name of the kind's option set, so of the VMM's flag.
    private let flag: String
    package let make: @Sendable () -> BackendKind

    package init(_ name: String, flag: String, make: @escaping @Sendable () -> BackendKind) {
        self.name = name
        self.flag = "--" + flag
        self.make = make
    }

    /// Whether the arguments may have such a device.
    func isNamed(in arguments: [String]) -> Bool {
        arguments.contains { $0.hasPrefix(flag) }
    }
}
