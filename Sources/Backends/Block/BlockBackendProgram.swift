internal import Core
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
            case .serve(let endpoint, let options):
                Log.configure(program: "apus-block", level: command.logLevel)
                try serve(endpoint, options)
            }
            return 0
        } catch {
            log(.error, "\(error)")
            return error is OptionError ? 2 : 1
        }
    }

    private static func serve(_ endpoint: BlockCommand.Endpoint, _ options: BlockOptions) throws {
        SignalFD.ignoreBrokenPipes()
        // The signals are blocked first, so that the queues' threads do not get them either.
        let loop = try EventLoop()
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP]) { _ in loop.quit() }
        defer { signals.cancel() }
        // The image comes first: who can connect finds a disk that works.
        let device = try BlockDevice(options)
        let server = BackendServer(device, on: loop, as: try role(endpoint))
        server.onFinished = { loop.quit() }
        server.start()
        loop.run()
        server.stop()
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
