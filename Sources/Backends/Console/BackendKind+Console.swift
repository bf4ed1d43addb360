internal import Core
internal import Glibc
package import VhostUser

extension BackendKind {
    /// The program `apus-console`: serves a console with any number of ports.
    package static let console = BackendKind(
        "console", .console, noun: "console",
        summary: "Serves a virtual machine's console and channels over vhost-user.",
        example: "listen=terminal.sock",
        schema: ConsoleOptions.schema,
        systemCalls: {
            var rules = SystemCallRules.backendControl
            rules.add(.terminal)
            rules.allow("signalfd4")  // signals of the terminal
            // Whether a program that has closed a socket said something before.
            rules.allow("ioctl", argument: 1, oneOf: [Int(FIONREAD)])
            return rules
        },
        terminal: TerminalUse(
            isWanted: { values in
                (try? ConsoleOptions(values))?.ports.contains { $0.backing == .stdio } ?? false
            },
            open: { try ConsoleFiles.open(ConsoleOptions($0), terminal: $1) }),
        check: { values throws(OptionError) in _ = try ConsoleOptions(values) },
        open: { try ConsoleFiles.open(ConsoleOptions($0)) },
        makeDevice: { surroundings in
            let options = try ConsoleOptions(surroundings.values)
            let ends = try ConsoleFiles.ends(options, surroundings.files, on: surroundings.loop)
            let ports = zip(options.ports, ends).map { ConsolePort($0, $1) }
            return ConsoleDevice(
                ports, on: surroundings.loop, configChanged: surroundings.configChanged)
        })
}
