package import Core

/// The command line of a back-end program. It follows the conventions for such programs (vhost-user
/// specification, "Backend program conventions").
package struct BackendCommand {
    package enum Action {
        /// Print this text and end.
        case show(String)
        /// - Parameter opened: the descriptors of what the options name, if the parent process has
        ///   opened it.
        /// - Parameter postcopy: front ends may bring memory while the device works.
        case serve(Endpoint, OptionValues, opened: [Int32]?, postcopy: Bool)
    }

    /// Where the front end is.
    package enum Endpoint: Equatable {
        /// Listen here.
        case path(String)
        /// A socket that the parent process left open, listening or connected.
        case inherited(Int32)
    }

    package let action: Action
    package let logLevel: Log.Level
    package let sandbox: SandboxOptions

    enum Flags {
        static let socketPath = Flag.one(
            "socket-path", .path, help: "Listen for the front end at this path")
        static let fd = Flag.one(
            "fd", .integer(0...UInt64(Int32.max)),
            help: "Use this open socket, which listens or is connected")
        static let openFDs = Flag.one(
            "open-fds", .list(of: .integer(0...UInt64(Int32.max))),
            help: "What the options name is open already, as these descriptors")
        static let postcopy = Flag.present(
            "postcopy",
            help: "Let front ends migrate guests by postcopy, which gives them all rights of this "
                + "program")
        static let capabilities = Flag.present(
            "print-capabilities", help: "Say what this program can do, as JSON")
        static let logLevel = Flag.one(
            "log-level", .choice(Log.Level.self), default: .warning,
            help: "The least important messages that are shown")
        static let help = Flag.present("help", help: "Print this help")
        static let version = Flag.present("version", help: "Print the version")
    }

    /// Reads the arguments that follow the program's name.
    package init(_ kind: BackendKind, _ arguments: [String]) throws(OptionError) {
        // By convention this one makes all others irrelevant, even those that are wrong.
        if arguments.contains("--\(Flags.capabilities.name)") {
            self.init(.show(Self.capabilities(kind)))
            return
        }
        let schema = BackendCommandSchema(kind)
        let values = try schema.command.parse(arguments)
        if values[Flags.help] {
            self.init(.show(schema.command.help))
        } else if values[Flags.version] {
            self.init(.show("\(kind.program) \(Release.version)\n"))
        } else {
            let endpoint = try Self.endpoint(values)
            let opened = try Self.opened(values, beside: endpoint)
            self.init(
                .serve(
                    endpoint, try schema.deviceValues(values), opened: opened,
                    postcopy: values[Flags.postcopy]),
                logLevel: values[Flags.logLevel], sandbox: SandboxOptions(values))
        }
    }

    private init(
        _ action: Action, logLevel: Log.Level = .warning, sandbox: SandboxOptions = SandboxOptions()
    ) {
        self.action = action
        self.logLevel = logLevel
        self.sandbox = sandbox
    }

    /// What management programs parse.
    static func capabilities(_ kind: BackendKind) -> String {
        let features = kind.capabilities.map { "    \"\($0)\"" }.joined(separator: ",\n")
        return """
            {
              "type": "\(kind.name)",
              "features": [
            \(features)
              ]
            }

            """
    }

    /// Each descriptor has one owner in the program.
    private static func opened(
        _ values: CommandValues, beside endpoint: Endpoint
    ) throws(OptionError) -> [Int32]? {
        guard let numbers = values[Flags.openFDs] else { return nil }
        var seen: [Int32] = []
        if case .inherited(let fd) = endpoint { seen.append(fd) }
        var opened: [Int32] = []
        for number in numbers.map({ Int32(clamping: $0) }) {
            guard !seen.contains(number) else {
                throw OptionError("descriptor \(number) of --open-fds is named twice")
            }
            seen.append(number)
            opened.append(number)
        }
        return opened
    }

    private static func endpoint(_ values: CommandValues) throws(OptionError) -> Endpoint {
        switch (values[Flags.socketPath], values[Flags.fd]) {
        case (let path?, nil): return .path(path)
        case (nil, let fd?): return .inherited(Int32(clamping: fd))
        case (nil, nil): throw OptionError("one of --socket-path and --fd is needed")
        default: throw OptionError("--socket-path and --fd exclude each other")
        }
    }
}
