import Core
import Foundation

/// The release executable and the guest that the tests use, as `./test` names them.
enum Setting {
    static let environment = ProcessInfo.processInfo.environment

    /// The executable; `nil` if there is none to test.
    static let binary: String? = {
        if let path = environment["APUS_BINARY"] { return path }
        let path = ".build/release/apus"
        return FileManager.default.isExecutableFile(atPath: path) ? path : nil
    }()

    /// The folder with Debian's kernel, the initramfs and what root disks are made of.
    static let guest: String? = {
        let path = environment["APUS_GUEST"] ?? ".build/guest"
        return FileManager.default.fileExists(atPath: path + "/vmlinuz") ? path : nil
    }()

    static var hasBinary: Bool { binary != nil }
    static var hasGuest: Bool { binary != nil && guest != nil }
}

struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A program that was started with pipes for its standard streams; killed when the test forgets it.
final class RunningProgram {
    let process = Process()
    private let input = Pipe()
    private let output = Collector()
    private let errors = Collector()

    /// Gathers what comes out of a pipe.
    private final class Collector: @unchecked Sendable {
        let pipe = Pipe()
        private let lock = NSLock()
        private var bytes = Data()

        func start() {
            pipe.fileHandleForReading.readabilityHandler = { [weak self] handle in
                let data = handle.availableData
                if data.isEmpty {
                    handle.readabilityHandler = nil
                } else {
                    self?.lock.withLock { self?.bytes.append(data) }
                }
            }
        }

        func stop() { pipe.fileHandleForReading.readabilityHandler = nil }

        var text: String { lock.withLock { String(decoding: bytes, as: UTF8.self) } }
    }

    init(_ path: String, _ arguments: [String]) throws {
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardInput = input
        process.standardOutput = output.pipe
        process.standardError = errors.pipe
        output.start()
        errors.start()
        try process.run()
    }

    deinit {
        if process.isRunning { kill() }
        output.stop()
        errors.stop()
    }

    /// Starts the executable under test.
    static func apus(_ arguments: [String]) throws -> RunningProgram {
        guard let binary = Setting.binary else { throw TestFailure("there is no executable") }
        return try RunningProgram(binary, arguments)
    }

    /// Everything on standard output so far, without carriage returns.
    var text: String { output.text.replacingOccurrences(of: "\r", with: "") }

    var errorText: String { errors.text }

    func send(_ text: String) { try? input.fileHandleForWriting.write(contentsOf: Data(text.utf8)) }

    func closeInput() { try? input.fileHandleForWriting.close() }

    /// Waits for text on standard output, after the first `skip` characters.
    func waitFor(_ wanted: String, after skip: Int = 0, seconds: Double = 60) throws {
        let deadline = Date() + seconds
        while Date() < deadline {
            let isOver = !process.isRunning
            if isOver { usleep(50_000) }
            if text.dropFirst(skip).contains(wanted) { return }
            if isOver { throw TestFailure("the program ended; \(tail)") }
            usleep(5_000)
        }
        throw TestFailure("no '\(wanted)' in \(seconds) seconds; \(tail)")
    }

    private var tail: String {
        "output ends: \(text.suffix(800)), errors: \(errorText.suffix(400))"
    }

    /// Waits for the end.
    /// - Returns: the exit code, or minus the signal's number.
    func wait(seconds: Double = 60) throws -> Int32 {
        let deadline = Date() + seconds
        while process.isRunning {
            guard Date() < deadline else { throw TestFailure("does not end; \(tail)") }
            usleep(5_000)
        }
        // What is still in the pipes.
        usleep(20_000)
        let code = process.terminationStatus
        return process.terminationReason == .uncaughtSignal ? -code : code
    }

    func kill(_ signal: Int32 = SIGKILL) { _ = Foundation.kill(process.processIdentifier, signal) }

    /// Processes whose parent this one is: id and command line.
    var children: [(id: Int32, arguments: [String])] {
        let parent = process.processIdentifier
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return names.compactMap { Int32($0) }.compactMap { id in
            guard let status = try? String(contentsOfFile: "/proc/\(id)/stat", encoding: .utf8),
                // After the name, in parentheses: state and parent.
                let fields = status.split(separator: ")").last?.split(separator: " "),
                fields.count > 1, Int32(fields[1]) == parent,
                let line = FileManager.default.contents(atPath: "/proc/\(id)/cmdline")
            else { return nil }
            let parts = line.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
            return (id, parts)
        }
    }
}

/// Runs a tool to its end and returns what it printed.
func runTool(_ tool: String, _ arguments: [String]) throws -> (code: Int32, output: String) {
    let program = try RunningProgram("/usr/bin/env", [tool] + arguments)
    program.closeInput()
    let code = try program.wait(seconds: 120)
    return (code, program.text)
}

/// A folder of a test's own, removed at its end.
final class TestFolder {
    let path: String

    init() throws {
        path =
            FileManager.default.temporaryDirectory
            .appending(component: "apus-test-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String, _ data: Data = Data()) throws -> String {
        try data.write(to: URL(fileURLWithPath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }

    /// A file of zeroes that takes no room.
    func sparse(_ name: String, size: UInt64) throws -> String {
        let path = try file(name)
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try handle.truncate(atOffset: size)
        try handle.close()
        return path
    }
}
