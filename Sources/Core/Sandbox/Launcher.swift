internal import CLinux
internal import Glibc
internal import Synchronization

/// A process that starts programs for this one, which after it has locked itself in cannot. It is
/// given all it needs in the beginning, and is only told which program to start: who takes over
/// this process comes by no right to start others.
///
/// The programs become children of this process. They are in the launcher's namespaces, see an
/// empty root, and are subject to its filter, too. This process may enter the namespaces as well.
package final class Launcher: Sendable {
    private static let patienceMilliseconds: Int32 = 5000
    private static let farewellMilliseconds: Int32 = 500
    private static let largestErrno: Int32 = 4095

    /// `nil` once the launcher is lost.
    private let socket: Mutex<UnixSocket?>

    /// A program was not started.
    package enum Failure: Error, CustomStringConvertible {
        /// Nor will any other be.
        case launcherLost
        case system(SystemError)

        package var description: String {
            switch self {
            case .launcherLost: "the launcher of apus's processes does not answer any more"
            case .system(let error): "\(error)"
            }
        }
    }

    /// Makes the launcher. This process must have one thread.
    /// - Parameters:
    ///   - executable: what all programs run.
    ///   - rules: what the programs may do once they have locked themselves in.
    package init(
        _ programs: [Program], executable: SharedFD, sandbox: Sandbox, rules: SystemCallRules
    ) throws(SystemError) {
        let (near, far) = try UnixSocket.pair()
        // SAFETY: the path lives for the call.
        let nothing = SharedFD(
            owning: try checking("open", unsafe clinux_open("/dev/null", O_RDWR, 0)))
        if try checking("fork", clinux_fork()) == 0 {
            Self.serve(programs, executable, sandbox, rules, far, standardStreams: nothing)
        }
        socket = Mutex(near)
    }

    /// For tests: whoever is at the other end of the socket is the launcher.
    init(at socket: UnixSocket) { self.socket = Mutex(socket) }

    /// The launcher's namespaces, for this process to enter as well, or `nil`. Call it once, before
    /// the first `launch`.
    package func takeNamespaces() -> Namespaces? {
        socket.withLock { Self.reply(&$0, size: 1) }.flatMap { Namespaces($0.fds) }
    }

    /// Starts a program, which gets `fd` as its descriptor 3; from any thread. The program is a
    /// child of the process's first.
    package func launch(_ program: Int, with fd: SharedFD) throws(Failure) -> ChildProcess {
        guard let reply = socket.withLock({ Self.ask(program, fd, &$0) }) else {
            throw .launcherLost
        }
        let process = reply.bytes.reduce(into: Int32(0)) { $0 = $0 << 8 | Int32($1) }
        // A launcher that somebody has taken over may say anything.
        let code = -max(process, -Self.largestErrno)
        guard let pidfd = reply.fds.first else {
            throw .system(SystemError("clone", errno: code))
        }
        let child = ChildProcess(processID: process, fd: pidfd)
        guard process < 0 else { return child }
        // It has ended, or is about to; somebody has to take its status.
        _ = child.wait(milliseconds: Self.patienceMilliseconds)
        throw .system(SystemError("exec", errno: code))
    }

    /// Lets the launcher end, which would otherwise be killed with this process: messages of the
    /// programs may still have to be passed on. Nothing can be launched any more.
    package func end() {
        let socket = socket.withLock { socket in
            defer { socket = nil }
            return socket
        }
        guard let socket else { return }
        socket.finishSending()
        _ = socket.waitReadable(timeoutMilliseconds: Self.farewellMilliseconds)
    }

    /// A launcher that does not answer is not asked again: a late answer would be taken for that to
    /// another question.
    private static func ask(
        _ program: Int, _ fd: SharedFD, _ socket: inout UnixSocket?
    ) -> ReceivedBytes? {
        do {
            try socket?.send([UInt8(truncatingIfNeeded: program)], fds: [fd])
        } catch {
            Sandbox.log(.debug, "the launcher cannot be asked: \(error)")
            socket = nil
        }
        return reply(&socket, size: 4)
    }

    private static func reply(_ socket: inout UnixSocket?, size: Int) -> ReceivedBytes? {
        do {
            if let socket, socket.waitReadable(timeoutMilliseconds: patienceMilliseconds),
                let reply = try socket.receive(upTo: size), reply.bytes.count == size
            {
                return reply
            }
        } catch {
            Sandbox.log(.debug, "the launcher does not answer: \(error)")
        }
        socket = nil
        return nil
    }

    // MARK: The other process

    private static func serve(
        _ programs: [Program], _ executable: SharedFD, _ sandbox: Sandbox,
        _ rules: SystemCallRules, _ socket: UnixSocket, standardStreams nothing: SharedFD
    ) -> Never {
        _ = clinux_set_parent_death_signal(SIGKILL)
        // A signal to the whole process group, from a terminal for example, is for the VMM, which
        // ends the machine while the programs still work.
        _ = setsid()
        // SAFETY: the names are copied.
        _ = unsafe clinux_set_thread_name("apus-launcher")
        unsafe clinux_set_command_line("apus-launcher")
        var errors: ErrorOutput?
        do {
            // What the user types is the VMM's alone.
            for stream in [STDIN_FILENO, STDOUT_FILENO] {
                _ = try checking("dup3", clinux_replace_fd(nothing.rawValue, stream))
                _ = clinux_fcntl(stream, F_SETFD, 0)
            }
            let output = try ErrorOutput()
            errors = output
            closeAll(
                but: programs.flatMap { $0.descriptors.map(\.fd) } + output.descriptors
                    + [executable, socket.fd])
            try sandbox.enter(
                launching(rules), executable: executable, folders: programs.compactMap(\.folder)
            ) { namespaces in
                // Whoever cannot be told has gone, which the next read shows.
                try? socket.send([0], fds: namespaces?.fds ?? [])
            }
            StartupMemory.release()
            while let request = try next(socket, output) {
                try answer(request, programs, executable, socket)
                StartupMemory.release()
            }
        } catch {
            Sandbox.log(.error, "devices cannot be started any more: \(error)")
            errors?.passOnAll()
            _exit(1)
        }
        errors?.passOnAll()
        _exit(0)
    }

    private static func closeAll(but kept: [SharedFD]) {
        let numbers = kept.map(\.rawValue).sorted()
        // SAFETY: the array lives for the call.
        unsafe clinux_close_all_but(numbers, numbers.count)
    }

    /// Waits for a request; `nil` once the other end has gone.
    private static func next(
        _ socket: UnixSocket, _ errors: ErrorOutput
    ) throws(SystemError) -> ReceivedBytes? {
        while true {
            errors.passOn(untilReadable: socket)
            guard let request = try socket.receive(upTo: 1) else { continue }
            return request.bytes.isEmpty ? nil : request
        }
    }

    private static func answer(
        _ request: ReceivedBytes, _ programs: [Program], _ executable: SharedFD,
        _ socket: UnixSocket
    ) throws(SystemError) {
        var result: (process: Int32, pidfd: Int32) = (-EINVAL, -1)
        if let index = request.bytes.first.map(Int.init), programs.indices.contains(index),
            let fd = request.fds.first
        {
            var program = programs[index]
            program.descriptors.append((fd, 3))
            // Who works with files has to know their users.
            result = program.spawn(as: program.folder == nil ? CLINUX_SIBLING : CLINUX_EQUAL)
        }
        let pidfd = result.pidfd >= 0 ? [SharedFD(owning: result.pidfd)] : []
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: result.process >> (24 - 8 * $0)) }
        try socket.send(bytes, fds: pidfd)
    }

    /// What the launcher does itself, what a program does until it has locked itself in, and what
    /// it does then: filters are inherited.
    package static func launching(_ rules: SystemCallRules) -> SystemCallRules {
        var all = SystemCallRules.base
        all.add(.dataMemory)
        all.add(.messages)
        all.add(rules)
        // The launcher.
        all.allow("clone", "execveat", "pipe2", "dup2", "close_range", "wait4")
        // The start of a program. Files are tried that are not there.
        all.allow(
            "arch_prctl", "set_tid_address", "prlimit64", "openat", "readlink", "readlinkat",
            "access", "newfstatat", "getuid", "geteuid", "getgid", "getegid", "getppid", "uname",
            "get_mempolicy", "set_mempolicy", "getpeername", "sysinfo", "mprotect")
        // Locking itself in.
        all.allow(
            "prctl", "capget", "capset", "tgkill", "seccomp", "signalfd4",
            "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
        all.add(.terminalCheck)
        return all
    }
}
