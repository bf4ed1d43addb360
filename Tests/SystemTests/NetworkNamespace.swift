import Core
import Glibc

/// A network namespace of a test's own, held open by a process that sleeps there.
final class NetworkNamespace {
    private let holder: RunningProgram

    init() throws {
        holder = try RunningProgram("/usr/bin/env", ["unshare", "-n", "sleep", "10000"])
        let deadline = Clock.monotonic() + 10_000_000_000
        while try Self.isOurs(holder.id) {
            guard holder.isRunning, Clock.monotonic() < deadline else {
                throw TestFailure("there is no namespace: \(holder.errorText)")
            }
            usleep(10_000)
        }
    }

    private static func isOurs(_ id: Int32) throws -> Bool {
        let links = try runTool("readlink", ["/proc/self/ns/net", "/proc/\(id)/ns/net"])
        let names = links.output.split(separator: "\n")
        return names.count < 2 || names[0] == names[1]
    }

    /// What goes before a command that is to run there.
    var prefix: [String] { ["nsenter", "-t", String(holder.id), "-n"] }

    /// Runs a command of busybox there.
    func run(_ arguments: String...) throws -> String {
        let tool = prefix + [try Guest.path("busybox")] + arguments
        let result = try runTool(tool[0], Array(tool.dropFirst()))
        guard result.code == 0 else { throw TestFailure("\(arguments): \(result.output)") }
        return result.output
    }

    /// Whether this process may make namespaces and interfaces.
    static let isPossible: Bool =
        unsafe getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0
        && ((try? runTool("unshare", ["-n", "true"]).code) == 0)
}
