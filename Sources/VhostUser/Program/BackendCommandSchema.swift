internal import Core

/// The flags of one back-end program: those of all such programs, and those for its device, which
/// can be described by an option set, by flags that stand for keys of it, or by both.
struct BackendCommandSchema {
    private typealias Flags = BackendCommand.Flags

    private let kind: BackendKind
    let command: CommandSchema
    private let device: Flag<OptionValues?>
    private let texts: [(flag: Flag<String?>, alias: OptionAlias)]
    private let switches: [(flag: Flag<Bool>, alias: OptionAlias)]

    init(_ kind: BackendKind) {
        self.kind = kind
        device = Flag.one(
            kind.schema.name, kind.schema.extended(with: []), help: "The device to serve")
        texts = kind.aliases.filter { $0.value == nil }.map {
            (Flag.one($0.name, .string, help: $0.help), $0)
        }
        switches = kind.aliases.filter { $0.value != nil }.map {
            (Flag.present($0.name, help: $0.help), $0)
        }
        let described = [device.any] + texts.map(\.flag.any) + switches.map(\.flag.any)
        command = CommandSchema(
            "apus \(kind.name)", summary: kind.summary,
            groups: [
                .init(
                    "Front end (--socket-path or --fd)",
                    [Flags.socketPath.any, Flags.fd.any, Flags.postcopy.any]),
                .init("Device", described + [Flags.openFDs.any]),
                .init("Sandbox", SandboxOptions.flags),
                .init(
                    "Other",
                    [
                        Flags.logLevel.any, Flags.capabilities.any, Flags.help.any,
                        Flags.version.any,
                    ]),
            ],
            chapters: [
                (
                    "Example",
                    "  apus \(kind.name) --socket-path=\(kind.name).sock --\(kind.schema.name) "
                        + kind.example
                ),
                ("Name", "  A link to apus with the name \(kind.program) is this program, too."),
                ("Ending", Self.ending),
            ])
    }

    /// What the command line says of the device.
    func deviceValues(_ values: CommandValues) throws(OptionError) -> OptionValues {
        let described = values[device]
        var items = described.map { [$0.text] } ?? []
        for (flag, alias) in texts {
            guard let text = values[flag] else { continue }
            do {
                try kind.schema.check(text, for: alias.key)
            } catch {
                throw error.inside("--\(alias.name)")
            }
            items.append(try assignment(alias, OptionSyntax.quote(text), described))
        }
        for (flag, alias) in switches where values[flag] {
            items.append(try assignment(alias, alias.value ?? "", described))
        }
        return try parse(items.filter { !$0.isEmpty }.joined(separator: ","), described)
    }

    private func assignment(
        _ alias: OptionAlias, _ text: String, _ described: OptionValues?
    ) throws(OptionError) -> String {
        if described?.text(of: alias.key) != nil {
            throw OptionError(
                "--\(alias.name) and \(alias.key) in --\(kind.schema.name) exclude each other")
        }
        return "\(alias.key)=\(text)"
    }

    /// - Parameter described: what the user gave as an option set, if anything.
    private func parse(
        _ text: String, _ described: OptionValues?
    ) throws(OptionError) -> OptionValues {
        do throws(OptionError) {
            let values = try kind.schema.extended(with: []).parse(text)
            if let missing = kind.schema.firstMissing(values) {
                throw described == nil ? needed : OptionError("key '\(missing)' is missing")
            }
            try kind.check(values)
            return values
        } catch {
            throw described == nil ? error : error.inside("--\(kind.schema.name)")
        }
    }

    /// The keys without which there is no device.
    private var required: [String] { kind.schema.keys.filter(\.isRequired).map(\.name) }

    /// Says which flags would do.
    private var needed: OptionError {
        let flags = texts.map(\.alias).filter { required == [$0.key] }.map(\.name)
        let names = ([kind.schema.name] + flags).map { "--\($0)" }
        return OptionError(
            (names.count == 1 ? "" : "one of ") + names.joined(separator: " and ") + " is needed")
    }

    private static let ending = """
          Ends with status 0 on SIGTERM, SIGINT or SIGHUP, and when the peer of a connected socket
          leaves. Otherwise it serves the next front end. Ends with one sentence and status 2 when the
          command line is wrong, with status 1 when it cannot work, and with 7 when it tries a system
          call that it does not need.
        """
}
