internal import CLinux
internal import Glibc

/// A process that starts others for this one, which after it has locked itself in cannot. It is
/// given all it needs in the beginning, and is only told which role to start: who takes over this
/// process comes by no right to start others.
///
/// A new process is a copy of the launcher, which has done nothing but wait: it starts in a fraction
/// of the time of a program, and what the executable's start has written, constants with addresses
/// for the most part, is in memory once for all of them. No process of the machine can, nor may,
/// start a program. The price is that all have the same addresses: who learns those of one process
/// knows them for the others.
///
/// The processes become children of this one. They are in the launcher's namespaces, see an empty
/// root, and are subject to its filter, too. This process may enter the namespaces as well.
package final class Launcher: Sendable {
    private static let patienceMilliseconds: Int32 = 5000
    private static let farewellMilliseconds: Int32 = 500
    private static let largestErrno: Int32 = 4095

    /// `nil` once the launcher is lost.
    private let socket: Lock<UnixSocket?>

    /// A process was not started.
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
    ///   - rules: what the processes may do once they have locked themselves in.
    package init(
        _ roles: [LaunchedRole], sandbox: Sandbox, rules: SystemCallRules
    ) throws(SystemError) {
        let (near, far) = try UnixSocket.pair()
        // SAFETY: the path lives for the call.
        let nothing = SharedFD(
            owning: try checking("open", unsafe clinux_open("/dev/null", O_RDWR, 0)))
        if try checking("fork", clinux_fork()) == 0 {
            Self.serve(roles, sandbox, rules, far, standardStreams: nothing)
        }
        socket = Lock(near)
    }

    /// For tests: whoever is at the other end of the socket is the launcher.
    init(at socket: UnixSocket) { self.socket = Lock(socket) }

    /// The launcher's namespaces, for this process to enter as well, or `nil`. Call it once, before
    /// the first `launch`.
    package func takeNamespaces() -> Namespaces? {
        socket.withLock { Self.reply(&$0, size: 1) }.flatMap { Namespaces($0.fds) }
    }

    /// Starts a process, which gets `fd` as its descriptor 3; from any thread. It is a child of the
    /// first process.
    /// - Parameter role: the number of what it is to be.
    package func launch(_ role: Int, with fd: SharedFD) throws(Failure) -> ChildProcess {
        guard let reply = socket.withLock({ Self.ask(role, fd, &$0) }) else {
            throw .launcherLost
        }
        let process = reply.bytes.reduce(into: Int32(0)) { $0 = $0 << 8 | Int32($1) }
        guard process > 0, let pidfd = reply.fds.first else {
            // A launcher that somebody has taken over may say anything.
            let code = -max(process, -Self.largestErrno)
            throw .system(SystemError("clone", errno: code))
        }
        return ChildProcess(processID: process, fd: pidfd)
    }

    /// Lets the launcher end, which would otherwise be killed with this process: messages of the
    /// processes may still have to be passed on. Nothing can be launched any more.
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
        _ role: Int, _ fd: SharedFD, _ socket: inout UnixSocket?
    ) -> ReceivedBytes? {
        do {
            try socket?.send([UInt8(truncatingIfNeeded: role)], fds: [fd])
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
        _ roles: [LaunchedRole], _ sandbox: Sandbox, _ rules: SystemCallRules,
        _ socket: UnixSocket, standardStreams nothing: SharedFD
    ) -> Never {
        _ = clinux_set_parent_death_signal(SIGKILL)
        // A signal to the whole process group, from a terminal for example, is for the VMM, which
        // ends the machine while the programs still work.
        _ = setsid()
        nameProcess("apus-launcher")
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
                but: roles.flatMap { $0.descriptors.map(\.fd) } + output.descriptors + [socket.fd])
            try sandbox.enter(
                launching(rules), folders: roles.compactMap(\.folder),
                opensHandles: roles.contains { $0.opensHandles }
            ) { namespaces in
                // Whoever cannot be told has gone, which the next read shows.
                try? socket.send([0], fds: namespaces?.fds ?? [])
            }
            StartupMemory.release()
            while let request = try next(socket, output) {
                try answer(request, roles, socket)
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

    /// In the new process this does not return, so nothing that the callers hold is let go of there:
    /// the numbers of its descriptors have a new meaning.
    private static func answer(
        _ request: ReceivedBytes, _ roles: [LaunchedRole], _ socket: UnixSocket
    ) throws(SystemError) {
        var process = -EINVAL
        var pidfd: Int32 = -1
        if let index = request.bytes.first.map(Int.init), roles.indices.contains(index),
            let fd = request.fds.first
        {
            process = roles[index].launch(with: fd, &pidfd)
        }
        let fds = pidfd >= 0 ? [SharedFD(owning: pidfd)] : []
        let bytes = (0..<4).map { UInt8(truncatingIfNeeded: process >> (24 - 8 * $0)) }
        try socket.send(bytes, fds: fds)
    }

    /// What the launcher does itself, what a process does until it has locked itself in, and what it
    /// does then: filters are inherited.
    package static func launching(_ rules: SystemCallRules) -> SystemCallRules {
        var all = SystemCallRules.base
        all.add(.dataMemory)
        all.add(.messages)
        all.add(rules)
        all.allow("clone", "close_range", "dup2", "getpeername")
        // Locking itself in. Files are tried that are not there.
        all.allow(
            "geteuid", "prlimit64", "openat", "prctl", "capget", "capset", "tgkill", "seccomp",
            "signalfd4", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")
        all.add(.terminalCheck)
        return all
    }
}
