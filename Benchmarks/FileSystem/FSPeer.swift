import BenchmarkSupport
import Foundation

/// A program that shares the folder, and how it is started.
enum FSPeer: CaseIterable {
    case apus
    case apusTwoQueues
    /// Without a pool of threads: with one, Debian 12's daemon is killed by its own seccomp filter
    /// (`sched_getaffinity`).
    case daemon

    static let daemonPath = "/usr/lib/qemu/virtiofsd"

    var contender: Comparison.Contender {
        switch self {
        case .apus: .init("apus-fs, 1 queue", isOurs: true)
        case .apusTwoQueues: .init("apus-fs, 2 queues", isOurs: true)
        case .daemon: .init("virtiofsd", isOurs: false)
        }
    }

    /// The daemon serves one.
    var queueCount: Int { self == .apusTwoQueues ? 2 : 1 }

    /// Starts it.
    func start(apus: String, folder: String, socket: String) throws -> PeerProcess {
        switch self {
        case .apus, .apusTwoQueues:
            return try PeerProcess(apus, ["fs", "--socket-path", socket, "--fs", "path=\(folder)"])
        case .daemon:
            return try PeerProcess(
                Self.daemonPath,
                [
                    "--socket-path=\(socket)", "-o", "source=\(folder)", "-o", "cache=auto", "-o",
                    "log_level=err",
                ])
        }
    }
}
