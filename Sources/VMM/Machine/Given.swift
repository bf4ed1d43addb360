internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What the user gave to a machine, in the form that is left when the process sees no files any
/// more: open files, and a launcher for the backends' processes.
struct Given {
    let boot: BootFiles
    /// `nil` if there is no disk with a process of its own.
    let launcher: Launcher?
    /// Where the sockets of others' backends are, by what the user calls them: paths that mean the
    /// same in every working folder, and without links up to the socket.
    let sockets: [String: String]
    /// The folders that they are in.
    let socketFolders: [String]
    let sandbox: Sandbox

    /// Opens everything. This process must have one thread.
    init(_ options: MachineOptions, _ backend: BackendKind) throws {
        sandbox = Sandbox(
            options.sandbox, program: "apus", descriptorLimit: Self.descriptorLimit)
        boot = try BootFiles(options.boot)
        var sockets: [String: String] = [:]
        var folders: [String] = []
        for disk in options.disks {
            guard case .socket(let path) = disk, let folder = Self.folder(of: path) else {
                continue
            }
            guard folder != "/" else {
                if options.sandbox.isolation == .off { continue }
                throw BootError(
                    "the disk at socket '\(path)' cannot be used: apus sees only the socket's folder"
                        + " once it has locked itself in, and that must not be the root; put the"
                        + " socket into a folder, or use --sandbox off")
            }
            folders.append(folder)
            sockets[path] = "\(folder)/\(path.split(separator: "/").last ?? "")"
        }
        self.sockets = sockets
        socketFolders = folders
        launcher = try Self.launcher(options, backend, sandbox)
    }

    /// What 64 disks of 64 queues use.
    private static let descriptorLimit: UInt64 = 16384
    private static let firstFileFD: Int32 = 4

    private static func launcher(
        _ options: MachineOptions, _ backend: BackendKind, _ sandbox: Sandbox
    ) throws -> Launcher? {
        // SAFETY: the path lives for the call.
        let raw = try checking("open", unsafe clinux_open("/proc/self/exe", O_RDONLY, 0))
        let executable = SharedFD(owning: raw)
        var programs: [Program] = []
        for disk in options.disks {
            guard case .child(_, let text, _) = disk else { continue }
            let files = try backend.open(backend.schema.parse(text)).enumerated().map {
                ($0.element, Self.firstFileFD + Int32($0.offset))
            }
            let numbers = files.map { String($0.1) }.joined(separator: ",")
            programs.append(
                Program(
                    .open(executable),
                    arguments: [
                        backend.program, "--fd=3", "--open-fds", "[\(numbers)]",
                        "--\(backend.schema.name)", text,
                        "--log-level", options.logLevel.name,
                    ] + options.sandbox.childArguments,
                    // Swift's runtime looks for libraries, of which there are none, by reading /proc.
                    environment: ["SWIFT_ROOT=/", "SWIFT_BACKTRACE=enable=no"], descriptors: files)
            )
        }
        if programs.isEmpty { return nil }
        return try Launcher(
            programs, executable: executable, sandbox: sandbox, rules: backend.systemCalls())
    }

    /// The folder that holds `path`, from the root and without links; `nil` if it does not exist.
    private static func folder(of path: String) -> String? {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropLast()
        let folder = parts.isEmpty ? "." : parts.joined(separator: "/")
        // SAFETY: the result is a string of its own, freed here, or NULL.
        guard let real = unsafe realpath(folder.isEmpty ? "/" : folder, nil) else { return nil }
        defer { unsafe free(real) }
        return unsafe String(cString: real)
    }
}
