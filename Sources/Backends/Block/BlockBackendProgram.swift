package import Core
internal import Glibc
internal import VhostUser

/// The program `apus-block`: serves one disk over vhost-user.
package enum BlockBackendProgram {
    private static let log = Log("apus-block")

    /// Runs the program until it is told to end.
    /// - Parameter arguments: what follows the program's name.
    /// - Returns: the exit status: 0, or, after one sentence on standard error, 2 if the command
    ///   line is wrong and 1 if something else is.
    package static func run(arguments: [String]) -> Int32 {
        Log.configure(program: "apus-block", level: .warning)
        do {
            let command = try BlockCommand(arguments)
            switch command.action {
            case .show(let text): print(text, terminator: "")
            case .serve(let endpoint, let image, let options):
                Log.configure(program: "apus-block", level: command.logLevel)
                try serve(endpoint, image, options, command.sandbox)
            }
            return 0
        } catch {
            log(.error, "\(error)")
            return error is OptionError ? 2 : 1
        }
    }

    private static func serve(
        _ endpoint: BlockCommand.Endpoint, _ source: BlockCommand.Image, _ options: BlockOptions,
        _ sandboxOptions: SandboxOptions
    ) throws {
        SignalFD.ignoreBrokenPipes()
        // The signals are blocked first, so that the queues' threads do not get them either.
        let loop = try EventLoop()
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP]) { _ in loop.quit() }
        defer { signals.cancel() }
        // The image comes first: who can connect finds a disk that works.
        let image = try open(source, options)
        let role = try role(endpoint)
        let sandbox = Sandbox(
            sandboxOptions, program: "apus-block", descriptorLimit: Self.descriptorLimit)
        try sandbox.enter(BlockSystemCalls.control)
        let device = try BlockDevice(
            image, options,
            queueFilter: try SeccompFilter(BlockSystemCalls.queue, sandboxOptions.seccomp))
        let server = BackendServer(device, on: loop, as: role)
        server.onFinished = { loop.quit() }
        server.start()
        loop.run()
        server.stop()
    }

    /// Opens the image that options in the form of `--disk` name, for a process that is started with
    /// `--image-fds`.
    @Sendable
    package static func openImage(_ text: String) throws -> [SharedFD] {
        let options = try BlockOptions(BlockOptions.schema.parse(text))
        return try ImageFiles(options).all
    }

    /// Eight for each of 64 queues, and those of memory regions.
    private static let descriptorLimit: UInt64 = 2048

    private static func open(
        _ source: BlockCommand.Image, _ options: BlockOptions
    ) throws(BlockError) -> RawImage {
        switch source {
        case .path: try RawImage(options)
        case .inherited(let numbers): try RawImage(options, ImageFiles(adopting: numbers, options))
        }
    }

    private static func role(
        _ endpoint: BlockCommand.Endpoint
    ) throws(BlockError) -> BackendServer.Role {
        do throws(SystemError) {
            switch endpoint {
            case .path(let path): return .listen(try UnixListener(path: path))
            case .inherited(let number):
                return BackendServer.Role(try InheritedSocket(SharedFD(owning: number)))
            }
        } catch {
            switch endpoint {
            case .path(let path) where error.code == EADDRINUSE:
                throw BlockError(
                    "cannot listen at \(path): another program listens there, or it is no socket")
            case .path(let path): throw BlockError("cannot listen at \(path): \(error.reason)")
            case .inherited(let number):
                throw BlockError(
                    "descriptor \(number) is no Unix socket to serve on: \(error.reason)")
            }
        }
    }
}
