internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What the user gave to a machine, in the form that is left when the process sees no files any
/// more: open files, and a launcher for the backends' processes.
struct Given {
    let boot: BootFiles
    /// The near end of the terminal that a console's process has, if one has it.
    let terminal: SharedFD?
    /// `nil` if there is no device with a process of its own.
    let launcher: Launcher?
    /// Where the sockets of others' backends are, by what the user calls them: paths that mean the
    /// same in every working folder, and without links up to the socket.
    let sockets: [String: String]
    /// The folders that they are in.
    let socketFolders: [String]
    /// Where monitors' clients connect.
    let monitors: [UnixListener]
    let sandbox: Sandbox

    /// Opens everything. This process must have one thread.
    init(_ options: MachineOptions) throws {
        sandbox = Sandbox(
            options.sandbox, program: "apus", descriptorLimit: Self.descriptorLimit)
        boot = try BootFiles(options.boot)
        var sockets: [String: String] = [:]
        var folders: [String] = []
        for device in options.devices {
            guard case .socket(let path, _) = device.source else { continue }
            guard path.last != "/" else {
                throw BootError(
                    "the \(device.title) cannot be used: a path that ends in / names a folder; give"
                        + " the path of the socket in it")
            }
            guard let folder = Self.folder(of: path) else { continue }
            guard folder != "/" else {
                if options.sandbox.isolation == .off { continue }
                throw BootError(
                    "the \(device.title) cannot be used: apus sees only the socket's folder"
                        + " once it has locked itself in, and that must not be the root; put the"
                        + " socket into a folder, or use --sandbox off")
            }
            folders.append(folder)
            sockets[path] = "\(folder)/\(path.split(separator: "/").last ?? "")"
        }
        self.sockets = sockets
        socketFolders = folders
        monitors = try options.monitors.map(Self.listen)
        let terminal = try Self.terminal(options)
        self.terminal = terminal?.near
        launcher = try Self.launcher(options, terminal?.far)
    }

    private static func listen(_ path: String) throws(BootError) -> UnixListener {
        do {
            // The file stays when we end: by then we have no way to it.
            return try UnixListener(path: path, isPassedOn: true)
        } catch {
            throw BootError("the monitor \(UnixListener.failure(at: path, error))")
        }
    }

    /// What a console's process has in place of the user's terminal.
    private static func terminal(_ options: MachineOptions) throws(BootError) -> PseudoTerminal? {
        guard options.devices.contains(where: { $0.usesTerminal }) else { return nil }
        do {
            let terminal = try PseudoTerminal()
            TerminalSize(of: STDIN_FILENO)?.set(on: terminal.near.rawValue)
            return terminal
        } catch {
            throw BootError(
                "a console cannot have the terminal: the host gives no pseudo terminal to stand for "
                    + "it: \(error.reason)")
        }
    }

    /// What 64 devices of 64 queues use.
    private static let descriptorLimit: UInt64 = 16384
    private static let firstFileFD: Int32 = 4

    private static func launcher(
        _ options: MachineOptions, _ terminal: SharedFD?
    ) throws -> Launcher? {
        var roles: [LaunchedRole] = []
        var kinds: [BackendKind] = []
        var rules = SystemCallRules()
        for device in options.devices {
            guard case .child(let child) = device.source else { continue }
            roles.append(try role(child, options, terminal))
            if let more = child.kind.optionSystemCalls(child.values) { rules.add(more) }
            if kinds.contains(child.kind) { continue }
            kinds.append(child.kind)
            rules.add(child.kind.systemCalls())
        }
        if roles.isEmpty { return nil }
        let limit = kinds.map(\.descriptorLimit).reduce(Self.descriptorLimit, max)
        return try Launcher(
            roles, sandbox: Sandbox(options.sandbox, program: "apus", descriptorLimit: limit),
            rules: rules)
    }

    private static func role(
        _ child: DeviceOptions.Child, _ options: MachineOptions, _ terminal: SharedFD?
    ) throws -> LaunchedRole {
        let kind = child.kind
        let opened: [SharedFD]
        if child.usesTerminal, let use = kind.terminal, let terminal {
            opened = try use.open(child.values, terminal)
        } else {
            opened = try kind.open(child.values)
        }
        let files = opened.enumerated().map { ($0.element, Self.firstFileFD + Int32($0.offset)) }
        let numbers = files.map { String($0.1) }.joined(separator: ",")
        return LaunchedRole(
            kind.program,
            arguments: [
                "--fd=3", "--open-fds", "[\(numbers)]", "--\(kind.schema.name)", child.values.text,
                "--log-level", options.logLevel.name,
            ] + options.sandbox.childArguments,
            descriptors: files, folder: kind.servesFolder ? files.first?.0 : nil,
            opensHandles: kind.opensHandles(child.values),
            main: BackendProgram(kind).run)
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
