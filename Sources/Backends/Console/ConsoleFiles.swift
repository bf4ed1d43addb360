internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What ports have on the host, opened before the process locks itself in: in the order of the
/// ports, as many descriptors as `count` says.
enum ConsoleFiles {
    /// - Parameter terminal: what `stdio` means, if not standard input and output.
    static func open(
        _ options: ConsoleOptions, terminal: SharedFD? = nil
    ) throws(BackendError) -> [SharedFD] {
        var files: [SharedFD] = []
        for port in options.ports {
            switch port.backing {
            case .stdio:
                if let terminal {
                    files += [terminal, terminal]
                } else {
                    files += [try duplicate(STDIN_FILENO), try duplicate(STDOUT_FILENO)]
                }
            case .pty(let link): files += try newTerminal(link)
            case .socket(let path): files.append(try listen(path))
            case .file(let path): files.append(try append(path))
            case .null: break
            }
        }
        return files
    }

    /// Makes the host ends of what `open` has opened.
    static func ends(
        _ options: ConsoleOptions, _ files: [SharedFD], on loop: EventLoop
    ) throws -> [any HostEnd] {
        var rest = files[...]
        func next() throws(BackendError) -> SharedFD {
            guard let file = rest.popFirst() else {
                throw BackendError("a port's descriptor is missing")
            }
            return file
        }
        return try options.ports.map { port -> any HostEnd in
            switch port.backing {
            case .stdio:
                let end = StreamEnd(
                    input: try next(), output: try next(), isFile: false, on: loop)
                try end.takeTerminal()
                return end
            case .pty:
                let near = try next()
                return StreamEnd(
                    input: near, output: near, isFile: false, keeping: try next(), on: loop)
            case .socket:
                return SocketEnd(
                    try UnixListener(adopting: try next()), replaySize: port.replaySize,
                    isLossless: !port.isConsole, on: loop)
            case .file:
                return StreamEnd(input: nil, output: try next(), isFile: true, on: loop)
            case .null: return NullEnd()
            }
        }
    }

    private static func duplicate(_ fd: Int32) throws(BackendError) -> SharedFD {
        try SharedFD(
            opened: clinux_fcntl(fd, F_DUPFD_CLOEXEC, 3),
            orFail: "standard input and output cannot be used")
    }

    private static func append(_ path: String) throws(BackendError) -> SharedFD {
        // SAFETY: the path lives for the call.
        try SharedFD(
            opened: unsafe clinux_open(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0o666),
            orFail: "the file \(path) cannot be written")
    }

    private static func listen(_ path: String) throws(BackendError) -> SharedFD {
        do {
            return try UnixListener(path: path, isPassedOn: true).fd
        } catch {
            throw BackendError(UnixListener.failure(at: path, error))
        }
    }

    /// A new pseudo terminal: our end, and the other, which stays open so that ours does not end
    /// when a program leaves it.
    private static func newTerminal(_ link: String?) throws(BackendError) -> [SharedFD] {
        let terminal: PseudoTerminal
        do {
            terminal = try PseudoTerminal()
        } catch {
            throw BackendError("the host gives no pseudo terminal: \(error.reason)")
        }
        if let link { try makeLink(link, to: terminal.path) }
        consoleLog(.warning, "a port is at \(link ?? terminal.path)")
        return [terminal.near, terminal.far]
    }

    /// A link from an earlier run is replaced, anything else is not.
    private static func makeLink(_ link: String, to path: String) throws(BackendError) {
        var status = stat()
        // SAFETY: the strings and the structure live for the calls.
        if unsafe lstat(link, &status) == 0, status.st_mode & S_IFMT == S_IFLNK {
            unsafe _ = unlink(link)
        }
        guard unsafe symlink(path, link) == 0 else {
            let reason = SystemError("symlink", errno: errno).reason
            throw BackendError("the link \(link) to a terminal cannot be made: \(reason)")
        }
    }
}
