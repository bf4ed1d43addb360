import Core
import Foundation
import Glibc
import TestSupport

extension Guest {
    /// The console appears a moment after its driver.
    func loadConsoleDriver() throws {
        let answer = try run(
            "modprobe virtio_console; until [ -c /dev/hvc0 ]; do usleep 20000; done; echo there")
        guard answer == "there" else { throw TestFailure("no console: \(answer)") }
    }

    /// Kills the console's process, which is started again.
    func killConsole() throws {
        let name = "apus-console"
        guard let old = apus.child(name) else {
            throw TestFailure("there is no \(name)")
        }
        kill(old, SIGKILL)
        let deadline = Date() + 20
        while !apus.children.contains(where: { $0.arguments.first == name && $0.id != old }) {
            guard Date() < deadline else { throw TestFailure("\(name) is not started again") }
            usleep(20_000)
        }
    }
}

/// Who is at a console's socket.
final class SocketReader {
    private let socket: UnixSocket
    private(set) var bytes: [UInt8] = []

    init(_ path: String) throws { socket = try UnixSocket(connectingTo: path) }

    /// What was read, without carriage returns.
    var text: String {
        String(decoding: bytes.filter { $0 != UInt8(ascii: "\r") }, as: UTF8.self)
    }

    /// The numbers of the complete lines `line NUMBER ...`.
    var numbers: [Int] {
        text.split(separator: "\n").dropFirst().dropLast().compactMap { line in
            let words = line.split(separator: " ")
            return words.count == 3 && words[0] == "line" ? Int(words[1]) : nil
        }
    }

    func send(_ bytes: [UInt8]) throws { try socket.send(bytes) }

    /// Types something and waits for an answer.
    func expect(_ answer: String, after typed: String, seconds: Double = 30) throws {
        try send(Array(typed.utf8))
        try read(seconds: seconds) { $0.text.contains(answer) }
    }

    /// Reads at least `count` more bytes.
    func read(bytes count: Int, seconds: Double = 90) throws {
        let wanted = bytes.count + count
        try read(seconds: seconds) { $0.bytes.count >= wanted }
    }

    /// Reads until the other end has gone.
    func readToEnd(seconds: Double = 30) throws -> SocketReader {
        let deadline = Date() + seconds
        while Date() < deadline {
            _ = socket.waitReadable(timeoutMilliseconds: 100)
            guard let got = try socket.receive(upTo: 65536) else { continue }
            if got.bytes.isEmpty { return self }
            bytes += got.bytes
        }
        throw TestFailure("the socket does not end")
    }

    /// Reads to the end of the next line.
    func readLine(seconds: Double) throws -> String {
        let start = bytes.count
        try read(seconds: seconds) { $0.bytes[start...].contains(UInt8(ascii: "\n")) }
        return String(decoding: bytes[start...].dropLast(), as: UTF8.self)
    }

    private func read(seconds: Double, until isEnough: (SocketReader) -> Bool) throws {
        let deadline = Date() + seconds
        while !isEnough(self) {
            guard Date() < deadline else {
                throw TestFailure("only \(bytes.count) bytes came: \(text.suffix(300))")
            }
            _ = socket.waitReadable(timeoutMilliseconds: 100)
            guard let got = try socket.receive(upTo: 65536) else { continue }
            guard !got.bytes.isEmpty else {
                throw TestFailure("the socket ends: \(text.suffix(300))")
            }
            bytes += got.bytes
        }
    }
}

/// Talks to a guest agent, which answers each line of JSON with one.
final class AgentClient {
    private let socket: SocketReader

    /// Connects and finds the beginning of the conversation: with a byte that is no text the agent
    /// forgets what it has heard before, of which it complains, and does what is asked next.
    init(_ path: String, session: Int) throws {
        socket = try SocketReader(path)
        let command =
            "{\"execute\": \"guest-sync-delimited\", \"arguments\": {\"id\": \(session)}}\n"
        try socket.send([0xff] + Array(command.utf8))
        while try !socket.readLine(seconds: 90).contains("{\"return\": \(session)}") {}
    }

    /// - Returns: what the command returns, as text.
    func ask(_ command: String, _ arguments: String = "{}", seconds: Double = 30) throws -> String {
        let line = "{\"execute\": \"\(command)\", \"arguments\": \(arguments)}\n"
        try socket.send(Array(line.utf8))
        let answer = try socket.readLine(seconds: seconds)
        guard let start = answer.range(of: "{\"return\": "), answer.hasSuffix("}") else {
            throw TestFailure("\(command): \(answer)")
        }
        return String(answer[start.upperBound...].dropLast())
    }
}

/// A user's terminal with a program in the foreground, of which the end is told.
final class UserTerminal {
    private let terminal: PseudoTerminal
    private let session: ChildProcess
    private var bytes: [UInt8] = []

    init(_ command: [String]) throws {
        terminal = try PseudoTerminal()
        _ = fcntl(terminal.near.rawValue, F_SETFL, O_NONBLOCK)
        let script = """
            stty sane cols 80 rows 24
            echo begin
            "$@"
            echo "ended $? in $(stty -a | grep -q ' icanon' && echo line || echo raw) mode"
            """
        session = try ChildProcess(
            path: "/bin/sh",
            arguments: [
                "sh", "-c", "exec setsid -c sh -c \"$0\" sh \"$@\" <&3 >&3 2>&3 3<&-", script,
            ]
                + command,
            environment: Setting.environment.map { "\($0.key)=\($0.value)" },
            descriptors: [(terminal.far, 3)])
    }

    deinit {
        for program in RunningProgram.children(of: session.processID) { kill(program.id, SIGKILL) }
        session.kill()
    }

    /// Whether the terminal gives programs whole lines, as it does for a shell.
    var isLineMode: Bool {
        var mode = termios()
        // SAFETY: the structure lives for the call.
        _ = unsafe tcgetattr(terminal.far.rawValue, &mode)
        return mode.c_lflag & tcflag_t(ICANON) != 0
    }

    func type(_ text: String) {
        let text = Array(text.utf8)
        // SAFETY: the bytes live for the call.
        _ = unsafe write(terminal.near.rawValue, text, text.count)
    }

    func resize(columns: UInt16, rows: UInt16) {
        TerminalSize(columns: columns, rows: rows).set(on: terminal.near.rawValue)
    }

    func signalProgram(_ number: Int32) throws {
        guard let program = RunningProgram.children(of: session.processID).first else {
            throw TestFailure("the program does not run: \(text)")
        }
        kill(program.id, number)
    }

    func awaitRawMode() throws {
        try wait(30, "raw mode") { text.contains("begin") && !isLineMode }
    }

    func expect(_ wanted: String, seconds: Double = 60) throws {
        try wait(seconds, wanted) { text.contains(wanted) }
    }

    /// Types a text again and again until there is an answer.
    func expect(_ wanted: String, typing typed: String, seconds: Double = 60) throws {
        var next = Date()
        try wait(seconds, wanted) {
            if Date() >= next {
                type(typed)
                next = Date() + 0.2
            }
            return text.contains(wanted)
        }
    }

    private func wait(_ seconds: Double, _ what: String, until isThere: () -> Bool) throws {
        let deadline = Date() + seconds
        while !isThere() {
            guard Date() < deadline else { throw TestFailure("no \(what): \(text.suffix(500))") }
            usleep(20_000)
            read()
        }
    }

    private var text: String {
        String(decoding: bytes.filter { $0 != UInt8(ascii: "\r") }, as: UTF8.self)
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: the buffer is as long as the call is told.
            let count = unsafe Glibc.read(terminal.near.rawValue, &buffer, buffer.count)
            guard count > 0 else { return }
            bytes += buffer.prefix(count)
        }
    }
}
