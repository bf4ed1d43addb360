import CLinux
import Core
import Glibc

/// A running `apus-block`.
final class BlockServer {
    let socket: String
    private let arguments: [String]
    private var process: PeerProcess

    /// Starts one on `socket`; `disk` is what `--disk` takes.
    init(socket: String, disk: String, options: [String] = []) throws {
        self.socket = socket
        arguments = ["block", "--socket-path=\(socket)", "--disk", disk] + options
        process = try Self.start(arguments, socket)
    }

    private static func start(_ arguments: [String], _ socket: String) throws -> PeerProcess {
        guard let apus = Means.apus else {
            throw Command.Failure(description: "there is no executable of Apus")
        }
        let process = try Command.start(apus, arguments)
        let deadline = Clock.monotonic() + 10_000_000_000
        while !Means.exists(socket), Clock.monotonic() < deadline { usleep(5_000) }
        return process
    }

    /// Kills it with no chance to clean up.
    func kill() { process.kill() }

    /// Starts it again, on the same socket.
    func restart() throws { process = try Self.start(arguments, socket) }

    /// Ends it as a service manager would.
    func terminate() -> ChildStatus {
        process.signal(SIGTERM)
        return process.wait()
    }
}
