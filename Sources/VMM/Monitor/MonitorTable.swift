/// All commands of a monitor, and what it says of itself.
package struct MonitorTable {
    let version: MonitorVersion
    private let commands: [MonitorCommand]

    /// - Parameter commands: what the monitor adds itself is not among them.
    package init(_ version: MonitorVersion, _ commands: [MonitorCommand]) {
        self.version = version
        let own = ["query-commands", "query-version", QMPSession.negotiation]
        let names = (own + commands.map(\.name)).sorted()
        self.commands =
            commands + [
                MonitorCommand("query-version") { _ in version.json },
                MonitorCommand("query-commands") { _ in
                    .array(names.map { ["name": .string($0)] })
                },
            ]
    }

    func command(_ name: String) throws(MonitorError) -> MonitorCommand {
        guard let command = commands.first(where: { $0.name == name }) else {
            throw MonitorError("The command \(name) has not been found", .commandNotFound)
        }
        return command
    }
}

/// What clients are told of the program's version.
package struct MonitorVersion: Sendable {
    /// The QEMU whose commands and events ours are like: clients decide by it what to expect.
    private static let likeQEMU: (major: Int64, minor: Int64, micro: Int64) = (7, 2, 0)

    /// The program and its own version.
    let package: String

    package init(package: String) { self.package = package }

    var json: JSONValue {
        let qemu = Self.likeQEMU
        return [
            "qemu": [
                "micro": .integer(qemu.micro), "minor": .integer(qemu.minor),
                "major": .integer(qemu.major),
            ],
            "package": .string(package),
        ]
    }
}
