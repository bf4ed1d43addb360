internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// The program `apus attach`: this terminal becomes that of a console at a Unix socket, for a while.
package final class AttachProgram {
    private static let log = Log("apus attach")
    private static let portion = 16 << 10
    private static let socket = Flag.one(
        "socket", .path, help: "Where the console listens (--console listen=PATH)")
    private static let logLevel = Flag.one(
        "log-level", .choice(Log.Level.self), default: .warning,
        help: "The least important messages that are shown")
    private static let version = Flag.present("version", help: "Print the version")
    private static let help = Flag.present("help", help: "Print this help")
    private static let schema = CommandSchema(
        "apus attach", summary: summary,
        groups: [
            .init("Console", [socket.any]), .init("Sandbox", SandboxOptions.flags),
            .init("Other", [logLevel.any, help.any, version.any]),
        ],
        chapters: [
            (
                "Ending",
                """
                  Ctrl-A x leaves the console, which goes on; so do the end of the input, SIGTERM, SIGINT
                  and SIGHUP. Status 0 then; 1 when the console's socket ends or cannot be reached; 2
                  when the command line is wrong; 7 when it tries a system call that it does not need.
                """
            ),
            ("Keys", "  Ctrl-A x leaves, Ctrl-A h shows help, Ctrl-A a sends Ctrl-A."),
        ])

    package static let name = "attach"
    package static let summary = "Makes this terminal that of a console at a Unix socket."

    private let console: UnixSocket
    private let loop: EventLoop
    private var status: Int32 = 0
    private var terminal: Terminal?
    private var keys = EscapeKeys()
    private var inputWatch: EventRegistration?
    /// What was typed and the console has not taken, and what tells when it takes more.
    private var unsent: [UInt8] = []
    private var roomWatch: EventRegistration?
    private static let unsentLimit = 64 << 10

    /// - Parameter arguments: what follows the program's name.
    /// - Returns: the exit status.
    package static func run(arguments: [String]) -> Int32 {
        Log.configure(program: "apus attach", level: .warning)
        do {
            let values = try schema.parse(arguments)
            if values[help] {
                Swift.print(schema.help, terminator: "")
                return 0
            }
            if values[version] {
                Swift.print("apus attach \(Release.version)")
                return 0
            }
            guard let path = values[socket] else { throw OptionError("--socket is missing") }
            let sandbox = SandboxOptions(values)
            guard sandbox.isolation != .chroot else {
                throw OptionError("--sandbox: chroot is for back ends; this program has namespaces")
            }
            Log.configure(program: "apus attach", level: values[logLevel])
            return try AttachProgram(path).serve(sandbox)
        } catch {
            log(.error, "\(error)")
            return error is OptionError ? 2 : 1
        }
    }

    private init(_ path: String) throws {
        do {
            console = try UnixSocket(connectingTo: path)
        } catch {
            throw BackendError("no console answers at \(path): \(error.reason)")
        }
        loop = try EventLoop()
    }

    private func serve(_ sandbox: SandboxOptions) throws -> Int32 {
        SignalFD.ignoreBrokenPipes()
        let signals = try loop.watchSignals([SIGTERM, SIGINT, SIGHUP, SIGCONT]) { [self] signal in
            if signal == SIGCONT { terminal?.makeRaw() } else { loop.quit() }
        }
        // What the guest prints comes from outside.
        try Sandbox(sandbox, program: "apus attach", descriptorLimit: 64)
            .enter(Self.systemCalls)
        terminal = Terminal(STDIN_FILENO)
        let output = loop.watch(console.fd.rawValue, for: .readable) { [self] _ in show() }
        watchInput()
        loop.run()
        for watch in [output, signals] { watch.cancel() }
        inputWatch = nil
        roomWatch = nil
        terminal = nil
        return status
    }

    private static var systemCalls: SystemCallRules {
        var rules = SystemCallRules.base
        rules.add(.dataMemory)
        rules.add(.messages)
        rules.add(.terminal)
        return rules
    }

    private func end(_ reason: String) {
        Self.log(.error, reason)
        status = 1
        loop.quit()
    }

    // MARK: Both ways

    private func show() {
        do {
            guard let got = try console.receive(upTo: Self.portion) else { return }
            if got.bytes.isEmpty { return end("the console has gone") }
            print(got.bytes)
        } catch {
            end("the console has gone: \(error.reason)")
        }
    }

    private func type() {
        var bytes = [UInt8](repeating: 0, count: Self.portion)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe read(STDIN_FILENO, &bytes, bytes.count)
        if count < 0, errno == EINTR || errno == EAGAIN { return }
        guard count > 0 else { return loop.quit() }
        bytes.removeLast(bytes.count - count)
        if terminal != nil { bytes = withoutKeys(bytes) }
        unsent += bytes.prefix(Self.unsentLimit - unsent.count)
        deliver()
    }

    /// Sends what the console takes. While it does not take all, a file or a pipe is not read; a
    /// terminal is, since its keys must be heard, and what becomes too much is dropped, as terminals
    /// do.
    private func deliver() {
        while !unsent.isEmpty {
            // SAFETY: the buffer is used only during the call.
            let count = unsafe unsent.withUnsafeBytes { buffer in
                unsafe write(console.fd.rawValue, buffer.baseAddress, buffer.count)
            }
            if count > 0 {
                unsent.removeFirst(count)
            } else if errno == EAGAIN {
                if terminal == nil { inputWatch = nil }
                if roomWatch == nil {
                    roomWatch = loop.watch(console.fd.rawValue, for: .writable) { [self] _ in
                        deliver()
                    }
                }
                return
            } else if errno != EINTR {
                let error = SystemError("write", errno: errno)
                return end("the console takes no input: \(error.reason)")
            }
        }
        roomWatch = nil
        if inputWatch == nil { watchInput() }
    }

    private func watchInput() {
        inputWatch = loop.watch(STDIN_FILENO, for: .readable) { [self] _ in type() }
    }

    private func withoutKeys(_ bytes: [UInt8]) -> [UInt8] {
        let (output, commands) = keys.filter(bytes)
        for command in commands {
            switch command {
            case .leave: loop.quit()
            case .help: print(Array(EscapeKeys.help(ends: "this; the guest goes on").utf8))
            }
        }
        return output
    }

    private func print(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            // SAFETY: the bytes live for the call.
            let count = unsafe rest.withUnsafeBytes { bytes in
                unsafe write(STDOUT_FILENO, bytes.baseAddress, bytes.count)
            }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if errno == EAGAIN {
                _ = clinux_poll_two(STDOUT_FILENO, Int16(POLLOUT), -1, 0, -1)
            } else if errno != EINTR {
                return loop.quit()
            }
        }
    }
}
