internal import Core

/// The command line of `apus-block`. It follows the conventions for vhost-user back-end programs
/// (vhost-user specification, "Backend program conventions").
struct BlockCommand: Equatable {
    enum Action: Equatable {
        /// Print this text and end.
        case show(String)
        case serve(Endpoint, Image, BlockOptions)
    }

    /// Where the front end is.
    enum Endpoint: Equatable {
        /// Listen here.
        case path(String)
        /// A socket that the parent process left open, listening or connected.
        case inherited(Int32)
    }

    /// Where the image is.
    enum Image: Equatable {
        /// Where the options say.
        case path
        /// The parent process has opened it.
        case inherited([Int32])
    }

    let action: Action
    let logLevel: Log.Level
    let sandbox: SandboxOptions

    static let version = "0.1.0"

    /// What `--print-capabilities` shows. Management programs parse it.
    static let capabilities = """
        {
          "type": "block",
          "features": [
            "read-only",
            "blk-file"
          ]
        }

        """

    private enum Flags {
        static let socketPath = Flag.one(
            "socket-path", .path, help: "listen for the front end at this path")
        static let fd = Flag.one(
            "fd", .integer(0...UInt64(Int32.max)),
            help: "use this open socket, which listens or is connected")
        static let disk = Flag.one("disk", BlockOptions.schema, help: "the disk to serve")
        static let file = Flag.one("blk-file", .path, help: "the same as --disk path=PATH")
        static let readOnly = Flag.present("read-only", help: "refuse writes")
        static let imageFDs = Flag.one(
            "image-fds", .list(of: .integer(0...UInt64(Int32.max))),
            help: "the image is open already; with direct=on also a second time, without O_DIRECT")
        static let capabilities = Flag.present(
            "print-capabilities", help: "say what this program can do, as JSON")
        static let logLevel = Flag.one(
            "log-level", .choice(LogLevel.self), default: .warning,
            help: "the least important messages to show")
        static let help = Flag.present("help", help: "show this text")
        static let version = Flag.present("version", help: "show the version")
    }

    private enum LogLevel: String, CaseIterable, Sendable {
        case error, warning, info, debug

        var level: Log.Level {
            switch self {
            case .error: .error
            case .warning: .warning
            case .info: .info
            case .debug: .debug
            }
        }
    }

    static let schema = CommandSchema(
        "apus-block", summary: "Serves a disk image to a virtual machine over vhost-user.",
        groups: [
            .init("Front end (one of these)", [Flags.socketPath.any, Flags.fd.any]),
            .init(
                "Disk", [Flags.disk.any, Flags.file.any, Flags.readOnly.any, Flags.imageFDs.any]),
            .init("Sandbox", SandboxOptions.flags),
            .init(
                "Other",
                [
                    Flags.logLevel.any, Flags.capabilities.any, Flags.help.any, Flags.version.any,
                ]),
        ],
        chapters: [
            (
                "Example",
                "  apus-block --socket-path=disk.sock --disk path=disk.img,direct=on"
            ),
            (
                "Ending",
                "  Ends with status 0 on SIGTERM or SIGINT, and when the peer of a connected socket "
                    + "leaves.\n  Otherwise it serves the next front end. Ends with one sentence and "
                    + "status 2 when\n  the command line is wrong, with status 1 when it cannot "
                    + "work, and with 7 when\n  it tries a system call that it does not need."
            ),
        ])

    init(
        action: Action, logLevel: Log.Level = .warning, sandbox: SandboxOptions = SandboxOptions()
    ) {
        self.action = action
        self.logLevel = logLevel
        self.sandbox = sandbox
    }

    /// Reads the arguments that follow the program's name.
    init(_ arguments: [String]) throws(OptionError) {
        // By convention this one makes all others irrelevant, even those that are wrong.
        if arguments.contains("--print-capabilities") {
            self.init(action: .show(Self.capabilities))
            return
        }
        let values = try Self.schema.parse(arguments)
        if values[Flags.help] {
            self.init(action: .show(Self.schema.help))
        } else if values[Flags.version] {
            self.init(action: .show("apus-block \(Self.version)\n"))
        } else {
            self.init(
                action: .serve(
                    try Self.endpoint(values), Self.image(values), try Self.disk(values)),
                logLevel: values[Flags.logLevel].level, sandbox: SandboxOptions(values))
        }
    }

    private static func endpoint(_ values: CommandValues) throws(OptionError) -> Endpoint {
        switch (values[Flags.socketPath], values[Flags.fd]) {
        case (let path?, nil): return .path(path)
        case (nil, let fd?): return .inherited(Int32(clamping: fd))
        case (nil, nil): throw OptionError("one of --socket-path and --fd is needed")
        default: throw OptionError("--socket-path and --fd exclude each other")
        }
    }

    private static func image(_ values: CommandValues) -> Image {
        guard let numbers = values[Flags.imageFDs] else { return .path }
        return .inherited(numbers.map { Int32(clamping: $0) })
    }

    private static func disk(_ values: CommandValues) throws(OptionError) -> BlockOptions {
        var options: BlockOptions
        switch (values[Flags.disk], values[Flags.file]) {
        case (let disk?, nil):
            do throws(OptionError) {
                options = try BlockOptions(disk)
            } catch {
                throw error.inside("--disk")
            }
        case (nil, let path?): options = BlockOptions(path: path)
        case (nil, nil): throw OptionError("one of --disk and --blk-file is needed")
        default: throw OptionError("--disk and --blk-file exclude each other")
        }
        if values[Flags.readOnly] { options.isReadOnly = true }
        return options
    }
}
