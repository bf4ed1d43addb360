internal import BlockBackend
internal import CLinux
internal import ConsoleBackend
internal import FileSystemBackend
internal import Glibc
internal import NetworkBackend
internal import RandomBackend
internal import VMM
internal import VhostUser
internal import VsockBackend

/// The executable: its name, or its first argument, chooses what it is.
@main
enum Main {
    static func main() {
        openStandardStreams()
        let arguments = self.arguments
        let name = arguments.first.map(fileName) ?? ""
        if let kind = backend(named: name, prefix: "apus-") {
            exit(BackendProgram(kind).run(arguments: Array(arguments.dropFirst())))
        }
        if let word = arguments.dropFirst().first, let kind = backend(named: word) {
            exit(BackendProgram(kind).run(arguments: Array(arguments.dropFirst(2))))
        }
        if arguments.dropFirst().first == AttachProgram.name {
            exit(AttachProgram.run(arguments: Array(arguments.dropFirst(2))))
        }
        if name == "apus-switch" {
            exit(SwitchProgram.run(arguments: Array(arguments.dropFirst())))
        }
        if arguments.dropFirst().first == SwitchProgram.name {
            exit(SwitchProgram.run(arguments: Array(arguments.dropFirst(2))))
        }
        exit(VMMProgram.run(arguments: Array(arguments.dropFirst()), backends: backends))
    }

    private static func fileName(_ path: String) -> String {
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return path }
        return String(path[path.utf8.index(after: slash)...])
    }

    /// All back ends of ours. Each is made only where it is needed: a program has use for one.
    private static let backends: [AvailableBackend] = [
        .init("block", flag: "disk") { .block }, .init("console", flag: "console") { .console },
        .init("fs", flag: "fs") { .fileSystem }, .init("net", flag: "net") { .network },
        .init("rng", flag: "rng") { .random }, .init("vsock", flag: "vsock") { .vsock },
    ]

    /// - Parameter prefix: what comes before the kind's name.
    private static func backend(named name: String, prefix: String = "") -> BackendKind? {
        backends.first { prefix + $0.name == name }?.make()
    }

    /// `CommandLine.arguments` reads them from /proc, which processes in a sandbox do not see.
    private static var arguments: [String] {
        (0..<clinux_argument_count()).compactMap { index in
            // SAFETY: the strings stay for the life of the process.
            unsafe clinux_argument(index).map { unsafe String(cString: $0) }
        }
    }

    /// A standard stream that was closed would come back as the next file that is opened, and a
    /// guest's memory or a message would become its input or output.
    private static func openStandardStreams() {
        // SAFETY: the path lives for the call.
        while (0...STDERR_FILENO).contains(unsafe clinux_open("/dev/null", O_RDWR, 0)) {}
    }
}
