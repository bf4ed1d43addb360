import CLinux
import Core
import Glibc
import TestSupport

/// The program under test: started here and watched, or somebody else's that listens somewhere.
final class Backend {
    let socket: String
    private let command: [String]
    private let log: String
    private let deadline: UInt64
    private let folder: TestFolder
    private let foreignProcess: Int32?
    private var child: ChildProcess?
    /// How the last one ended.
    private(set) var lastStatus: ChildStatus?
    private(set) var startCount = 0
    /// How much of the log is about earlier cases.
    private var logStart = 0

    /// - Parameters:
    ///   - command: to start it with; empty if it runs already.
    ///   - socket: where it listens; `nil` for a place of our own.
    ///   - deadline: how many milliseconds it may take to answer.
    init(
        command: [String], socket: String?, process: Int32?, log: String?, deadline: UInt64
    ) throws {
        folder = try TestFolder()
        let path = socket ?? folder["socket"]
        self.socket = path
        self.command = command.map { Self.replace("{socket}", in: $0, by: path) }
        self.log = log ?? folder["log"]
        self.deadline = deadline
        foreignProcess = process
    }

    deinit {
        if child != nil { kill() }
    }

    var isOurs: Bool { !command.isEmpty }
    var processID: Int32? { isOurs ? child?.processID : foreignProcess }

    /// Starts it unless it runs.
    func ensureRunning() throws {
        guard isOurs, !isRunning else { return }
        // What a killed one has left behind is in the way.
        unsafe unlink(socket)
        startCount += 1
        lastStatus = nil
        child = try ChildProcess(
            path: "/bin/sh",
            arguments: ["sh", "-c", "exec \"$@\" </dev/null >>\"$0\" 2>&1", log] + command,
            environment: ProcessFiles.environment)
    }

    /// Connects. One that has just been started has ten seconds to listen.
    func connect() throws -> VhostUserClient {
        try ensureRunning()
        let limit = Clock.monotonic() + (isOurs ? 10_000 : deadline) * 1_000_000
        while true {
            do {
                let client = try VhostUserClient(path: socket, timeoutMilliseconds: 0)
                client.timeoutMilliseconds = Int32(deadline)
                return client
            } catch {
                guard !isOurs || isRunning else { throw Failure("the back end \(endDescription)") }
                guard Clock.monotonic() < limit else {
                    throw Failure("nobody accepts connections at \(socket): \(error)")
                }
                usleep(500)
            }
        }
    }

    /// Whether the one that runs serves a front end.
    func answers() -> Bool {
        guard let client = try? VhostUserClient(path: socket, timeoutMilliseconds: 0) else {
            return false
        }
        client.timeoutMilliseconds = Int32(deadline)
        return (try? client.send(.getFeatures, hasReply: true)) != nil
    }

    var isRunning: Bool {
        guard child != nil else { return false }
        return awaitEnd(milliseconds: 0) == nil
    }

    /// Waits for its end.
    /// - Returns: how it ended; `nil` if it has not.
    func awaitEnd(milliseconds: UInt64) -> ChildStatus? {
        guard let child else { return lastStatus }
        guard let status = child.wait(milliseconds: Int32(clamping: milliseconds)) else {
            return nil
        }
        lastStatus = status
        self.child = nil
        return status
    }

    /// Ends it with no chance to clean up.
    func kill() { signal(SIGKILL, milliseconds: 10_000) }

    /// Sends a signal and waits for the end.
    @discardableResult
    func signal(_ number: Int32, milliseconds: UInt64) -> ChildStatus? {
        guard isRunning else { return lastStatus }
        child?.signal(number)
        return awaitEnd(milliseconds: milliseconds)
    }

    /// For example `was killed by SIGSEGV (its last words: ...)`.
    var endDescription: String {
        switch lastStatus {
        case .killed(let signal):
            "was killed by \(ProcessFiles.signalName(signal))" + lastWords
        case .exited(let code): "ended with status \(code)" + lastWords
        case nil: "has ended"
        }
    }

    /// What it has printed so far is about earlier cases.
    func forgetLog() { logStart = ProcessFiles.size(log) }

    private var lastWords: String {
        guard let line = ProcessFiles.lastLine(log, from: logStart), !line.isEmpty else {
            return ""
        }
        return " (\(line.prefix(160)))"
    }

    /// Open descriptors of the process and its children; `nil` where they cannot be seen.
    var descriptorCount: Int? {
        processID.flatMap { ProcessFiles.sum($0, ProcessFiles.descriptorCount) }
    }

    /// Resident memory of the process and its children, in KiB.
    var residentSize: Int? { processID.flatMap { ProcessFiles.sum($0, ProcessFiles.residentSize) } }

    private static func replace(_ word: String, in text: String, by value: String) -> String {
        guard let range = Array(text.utf8).firstRange(of: Array(word.utf8)) else { return text }
        let bytes = Array(text.utf8)
        return String(decoding: bytes[..<range.lowerBound], as: UTF8.self) + value
            + String(decoding: bytes[range.upperBound...], as: UTF8.self)
    }
}
