import Core
import Glibc

/// A guest's serial console behind a Unix socket: the lines it prints, and the shell behind it.
final class GuestConsole {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private let socket: UnixSocket
    /// All that the guest has printed, without carriage returns.
    private var printed: [UInt8] = []
    private var position = 0

    /// Connects to the socket that the VMM, as long as it is running, has made or is about to make at
    /// `path`.
    init(path: String, while isRunning: () -> Bool) throws {
        socket = try connect(to: path, while: isRunning)
    }

    /// The last part of what the guest has printed.
    var tail: String { String(decoding: printed.suffix(2000), as: UTF8.self) }

    /// Waits until the guest prints `text`, and moves behind it.
    /// - Returns: what came before.
    @discardableResult
    func wait(for text: String, seconds: UInt64 = 120) throws -> String {
        let deadline = Clock.monotonic() + seconds * 1_000_000_000
        while true {
            if let found = printed[position...].firstRange(of: Array(text.utf8)) {
                let before = String(decoding: printed[position..<found.lowerBound], as: UTF8.self)
                position = found.upperBound
                return before
            }
            guard Clock.monotonic() < deadline else {
                throw Failure(description: "no '\(text)' from the guest:\n\(tail)")
            }
            try read()
        }
    }

    private func read() throws {
        guard socket.waitReadable(timeoutMilliseconds: 1000),
            let received = try socket.receive(upTo: 65536)
        else { return }
        guard !received.bytes.isEmpty else {
            throw Failure(description: "the guest has gone:\n\(tail)")
        }
        printed += received.bytes.filter { $0 != UInt8(ascii: "\r") }
    }

    /// Types a line.
    func type(_ line: String) throws { try socket.send(Array("\(line)\n".utf8)) }

    /// Starts a command in the guest's shell; `answer` gets what it prints.
    func start(_ command: String) throws {
        // The marks are written so that what the terminal echoes does not contain them.
        try type(#"echo "{""{$(\#(command))}""}""#)
    }

    func answer(seconds: UInt64 = 120) throws -> String {
        try wait(for: "{{", seconds: seconds)
        return try wait(for: "}}", seconds: seconds)
    }

    /// Runs a command in the guest's shell.
    /// - Returns: what it prints.
    func ask(_ command: String, seconds: UInt64 = 120) throws -> String {
        try start(command)
        return try answer(seconds: seconds)
    }
}

/// Connects to a socket that another process makes, for which it has a minute.
func connect(to path: String, while isRunning: () -> Bool) throws -> UnixSocket {
    let deadline = Clock.monotonic() + 60_000_000_000
    while true {
        do {
            return try UnixSocket(connectingTo: path)
        } catch {
            guard isRunning(), Clock.monotonic() < deadline else { throw error }
            usleep(20_000)
        }
    }
}
