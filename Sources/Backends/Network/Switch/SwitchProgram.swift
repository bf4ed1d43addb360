internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// The program `apus-switch`: joins virtual machines, each with a stream to it, and an up-link.
package enum SwitchProgram {
    package static let name = "switch"
    package static let summary = "Joins the networks of virtual machines, and an up-link."

    private static let log = Log("apus-switch")

    private enum Flags {
        static let listen = Flag.one(
            "listen", .path, help: "Where ports connect, a Unix socket")
        static let fd = Flag.one(
            "fd", .integer(0...UInt64(Int32.max)), help: "An open socket that ports connect to")
        static let memoryPorts = Flag.many(
            "vhost", NetworkOptions.portSchema,
            help: "A port that serves a machine's queues itself, without copies in between")
        static let poll = Flag.one(
            "poll-us", .pollMicroseconds, default: IdlePolling.usualMicroseconds,
            help: "How long to look at those queues before sleeping, in microseconds: at most, or "
                + "ten times that where it halves the wait; or always")
        static let upLink = Flag.one(
            "uplink", NetworkOptions.upLinkSchema,
            help: "A network of the host, or another switch")
        static let ports = Flag.one(
            "ports", .integer(1...1000), default: 64, help: "The most ports at a time")
        static let isolate = Flag.present(
            "isolate",
            help: "Ports reach the up-link but not each other, and keep the addresses that they "
                + "were first to use")
        static let logLevel = Flag.one(
            "log-level", .choice(Log.Level.self), default: .warning,
            help:
                "The least important messages that are shown; info: ports that come and go, with counts"
        )
        static let help = Flag.present("help", help: "Print this help")
        static let version = Flag.present("version", help: "Print the version")
    }

    private static let schema = CommandSchema(
        "apus switch", summary: summary,
        groups: [
            .init("Ports", [Flags.listen.any, Flags.fd.any, Flags.memoryPorts.any]),
            .init(
                "Network",
                [Flags.upLink.any, Flags.ports.any, Flags.isolate.any, Flags.poll.any]),
            .init("Sandbox", SandboxOptions.flags),
            .init("Other", [Flags.logLevel.any, Flags.help.any, Flags.version.any]),
        ],
        chapters: [
            (
                "Example",
                """
                  apus switch --listen net.sock --uplink tap,ifname=tap0
                  apus ... --net stream,path=net.sock
                  qemu-system-x86_64 ... -netdev \\
                      stream,id=n0,server=off,addr.type=unix,addr.path=net.sock

                  apus switch --vhost a.sock --vhost b.sock
                  apus ... --net socket=a.sock
                """
            ), ("Name", "  A link to apus with the name apus-switch is this program, too."),
            (
                "Ending",
                """
                  Ends with status 0 on SIGTERM, SIGINT or SIGHUP, with one sentence and status 2 when the
                  command line is wrong, with 1 when it cannot work, and with 7 when it tries a system
                  call that it does not need. Its socket's file stays.
                """
            ),
        ])

    /// - Parameter arguments: what follows the program's name.
    /// - Returns: the exit status.
    package static func run(arguments: [String]) -> Int32 {
        Log.configure(program: "apus-switch", level: .warning)
        do {
            let values = try schema.parse(arguments)
            if values[Flags.help] {
                print(schema.help, terminator: "")
            } else if values[Flags.version] {
                print("apus-switch \(Release.version)")
            } else {
                Log.configure(program: "apus-switch", level: values[Flags.logLevel])
                try serve(values)
            }
            return 0
        } catch {
            log(.error, "\(error)")
            return error is OptionError ? 2 : 1
        }
    }

    private static func serve(_ values: CommandValues) throws {
        SignalFD.ignoreBrokenPipes()
        let loop = try EventLoop()
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP]) { _ in loop.quit() }
        defer { signals.cancel() }
        let upLink = try values[Flags.upLink].map { values throws(OptionError) in
            try NetworkOptions(upLink: values)
        }
        let listener = try listener(values)
        let memoryPorts = try values[Flags.memoryPorts].map(SwitchDevice.Place.init)
        let files = try upLink.map(LinkFiles.init)?.all ?? []
        var settings = FrameSwitch.Settings()
        settings.portCount = Int(clamping: values[Flags.ports])
        settings.isIsolated = values[Flags.isolate]
        settings.memoryPortCount = memoryPorts.count
        settings.pollMicroseconds = values[Flags.poll]
        let sandbox = SandboxOptions(values)
        try Sandbox(
            sandbox, program: "apus-switch",
            descriptorLimit: UInt64(settings.portCount) + 64 + 64 * UInt64(memoryPorts.count)
        ).enter(NetworkSystemCalls.control)
        let filter = try SeccompFilter(NetworkSystemCalls.pair, sandbox.seccomp)
        let (new, folder) = try make(settings, listener, upLink?.link, files)
        let thread = try SwitchThread(new)
        try thread.start {
            enterFolder(folder)
            filter?.loadOrEnd()
        }
        let devices = try zip(memoryPorts, new.memoryPorts).map { place, port in
            try SwitchDevice(place, port.port, of: thread, on: loop)
        }
        StartupMemory.release()
        loop.run()
        for device in devices { device.stop() }
        thread.stop()
    }

    private static func listener(_ values: CommandValues) throws -> SharedFD? {
        switch (values[Flags.listen], values[Flags.fd]) {
        case (let path?, nil): return try LinkFiles.listener(path)
        case (nil, let number?):
            let socket = try InheritedSocket(SharedFD(owning: Int32(clamping: number)))
            guard case .listening(let listener) = socket else {
                throw BackendError("descriptor \(number) does not listen")
            }
            return listener.fd
        case (nil, nil) where !values[Flags.memoryPorts].isEmpty: return nil
        case (nil, nil): throw OptionError("one of --listen, --fd and --vhost is needed")
        default: throw OptionError("--listen and --fd exclude each other")
        }
    }

    /// - Returns: also the folder that the up-link's peer is in.
    private static func make(
        _ settings: FrameSwitch.Settings, _ listener: SharedFD?, _ link: NetworkOptions.Link?,
        _ files: [SharedFD]
    ) throws -> (FrameSwitch, folder: SharedFD?) {
        switch link {
        case .stream(let path, .client):
            let source = StreamSource.Kind.connect(name: LinkFiles.name(of: path))
            return (try FrameSwitch(settings, listener: listener, source: source), files[0])
        case .stream(_, .server):
            return (
                try FrameSwitch(settings, listener: listener, source: .accept(files[0])), nil
            )
        case .inherited:
            _ = clinux_set_nonblocking(files[0].rawValue)
            return (try FrameSwitch(settings, listener: listener, connected: files[0]), nil)
        case .tap: return (try FrameSwitch(settings, listener: listener, tap: files[0]), nil)
        default: return (try FrameSwitch(settings, listener: listener), nil)
        }
    }
}
