import Core
import Glibc

/// A network namespace of a test's own, held open by a process that sleeps there.
final class NetworkNamespace {
    private let holder: RunningProgram

    init() throws {
        holder = try RunningProgram("/usr/bin/env", ["unshare", "-n", "sleep", "1000"])
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

    /// A number that the kernel keeps of an interface.
    func statistic(_ name: String, of interface: String) throws -> Int {
        // /sys shows the namespace that it was mounted in.
        let lines = try run("cat", "/proc/net/dev").split(separator: "\n")
        let line = lines.first { $0.contains("\(interface):") } ?? ""
        let numbers = line.split(separator: ":").last?.split(separator: " ").compactMap { Int($0) }
        let place = ["rx_bytes": 0, "rx_packets": 1, "tx_bytes": 8, "tx_packets": 9][name] ?? 0
        guard let numbers, numbers.count == 16 else { throw TestFailure("no \(interface)") }
        return numbers[place]
    }

    /// Whether this process may make namespaces and interfaces.
    static let isPossible: Bool =
        unsafe getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0
        && ((try? runTool("unshare", ["-n", "true"]).code) == 0)
}
