import Core
import Foundation
import TestSupport

/// The release executable and the guest that the tests use, as `./test` names them. Nothing else
/// will do: what lies about may be old.
enum Setting {
    static let environment = ProcessInfo.processInfo.environment

    /// The executable; `nil` if there is none to test.
    static let binary = environment["APUS_BINARY"]

    /// The folder with Debian's kernel, the initramfs and what root disks are made of.
    static let guest = environment["APUS_GUEST"]

    static var hasBinary: Bool { binary != nil }
    static var hasGuest: Bool { binary != nil && guest != nil }

    /// Debian's guest agent for QEMU is there to be put on a disk.
    static var hasAgent: Bool {
        guest.map { FileManager.default.fileExists(atPath: "\($0)/agent.d/usr/sbin/qemu-ga") }
            ?? false
    }
}

struct TestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// One direction of a pipe to or from a program.
private final class PipeEnd {
    let near: SharedFD
    let far: SharedFD
    private(set) var bytes = Data()

    /// - Parameter isInput: whether the program reads it.
    init(isInput: Bool) throws {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        guard unsafe pipe(&ends) == 0 else { throw SystemError("pipe", errno: errno) }
        near = SharedFD(owning: isInput ? ends[1] : ends[0])
        far = SharedFD(owning: isInput ? ends[0] : ends[1])
        if !isInput { _ = fcntl(near.rawValue, F_SETFL, O_NONBLOCK) }
    }

    /// Takes what has come.
    func pump() {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: the buffer lives for the call.
            let count = unsafe read(near.rawValue, &buffer, buffer.count)
            guard count > 0 else { return }
            bytes.append(contentsOf: buffer.prefix(count))
        }
    }

    var text: String {
        pump()
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// A program that was started with pipes for its standard streams; killed when the test forgets it.
/// It belongs to the thread that made it, and dies with it.
final class RunningProgram {
    private let child: ChildProcess
    private var input: PipeEnd?
    private let output: PipeEnd
    private let errors: PipeEnd
    private var status: ChildStatus?

    init(_ path: String, _ arguments: [String]) throws {
        let input = try PipeEnd(isInput: true)
        output = try PipeEnd(isInput: false)
        errors = try PipeEnd(isInput: false)
        self.input = input
        // The shell puts the descriptors in their places and becomes the program.
        let script = "exec \"$@\" <&3 >&4 2>&5 3<&- 4>&- 5>&-"
        child = try ChildProcess(
            path: "/bin/sh", arguments: ["sh", "-c", script, "sh", path] + arguments,
            environment: Setting.environment.map { "\($0.key)=\($0.value)" },
            descriptors: [(input.far, 3), (output.far, 4), (errors.far, 5)])
    }

    deinit {
        if status == nil { child.kill() }
    }

    /// Starts the executable under test.
    /// - Parameters:
    ///   - copy: a copy of the executable, to be started in its place.
    ///   - prefix: a command that becomes the one that follows it.
    static func apus(
        _ arguments: [String], copy: String? = nil, prefix: [String] = []
    ) throws -> RunningProgram {
        guard let binary = copy ?? Setting.binary else {
            throw TestFailure("there is no executable")
        }
        if prefix.isEmpty { return try RunningProgram(binary, arguments) }
        return try RunningProgram("/usr/bin/env", prefix + [binary] + arguments)
    }

    var isRunning: Bool {
        if status == nil { status = child.reap() }
        return status == nil
    }

    /// Everything on standard output so far, without carriage returns.
    var text: String { output.text.replacingOccurrences(of: "\r", with: "") }

    var errorText: String { errors.text }

    /// Takes what has been printed: a program whose output nobody takes waits, in the end.
    func takeOutput() {
        output.pump()
        errors.pump()
    }

    func send(_ text: String) {
        guard let input else { return }
        let bytes = Array(text.utf8)
        // SAFETY: the bytes live for the call.
        _ = unsafe write(input.near.rawValue, bytes, bytes.count)
    }

    func closeInput() { input = nil }

    /// Waits for text on standard output, after the first `skip` characters.
    func waitFor(_ wanted: String, after skip: Int = 0, seconds: Double = 60) throws {
        let deadline = Date() + seconds
        while Date() < deadline {
            let isOver = !isRunning
            if text.dropFirst(skip).contains(wanted) { return }
            if isOver { throw TestFailure("the program ended; \(tail)") }
            usleep(20_000)
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
        while isRunning {
            guard Date() < deadline else { throw TestFailure("does not end; \(tail)") }
            takeOutput()
            status = child.wait(milliseconds: 10)
        }
        switch status {
        case .exited(let code): return code
        case .killed(let signal): return -signal
        case nil: throw TestFailure("ended without a status")
        }
    }

    func kill(_ signal: Int32 = SIGKILL) { child.signal(signal) }

    var id: Int32 { child.processID }

    /// Processes whose parent this one is: id and command line.
    var children: [(id: Int32, arguments: [String])] { Self.children(of: id) }

    /// A child process with that name.
    func child(_ name: String) -> Int32? { children.first { $0.arguments.first == name }?.id }

    /// This process and its children.
    var descendants: [(id: Int32, arguments: [String])] {
        let line = FileManager.default.contents(atPath: "/proc/\(id)/cmdline") ?? Data()
        let parts = line.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        return [(id, parts)] + children
    }

    static func children(of parent: Int32) -> [(id: Int32, arguments: [String])] {
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
func runTool(
    _ tool: String, _ arguments: [String], seconds: Double = 120
) throws -> (code: Int32, output: String) {
    let program = try RunningProgram("/usr/bin/env", [tool] + arguments)
    program.closeInput()
    let code = try program.wait(seconds: seconds)
    return (code, program.text)
}

/// Copies a program. By another process: a child that a test starts meanwhile would have the file open
/// for writing, and what is open so cannot be executed.
func copyProgram(_ path: String, to target: String) throws {
    let result = try runTool("cp", ["-L", path, target])
    guard result.code == 0 else { throw TestFailure("\(target) cannot be made: \(result.output)") }
}

/// Copies an executable page by page, so that the page cache has it in single pages. The kernel maps
/// what it has in one piece as one piece, up to 2 MiB: how much of a file is then resident says more
/// of how the file was written than of its program.
func copyProgramByPages(_ path: String, to target: String) throws {
    let copy = "dd if='\(path)' of='\(target)' bs=4096 conv=fsync status=none"
    let result = try runTool("sh", ["-c", "\(copy) && chmod 755 '\(target)'"])
    guard result.code == 0 else { throw TestFailure("\(target) cannot be made: \(result.output)") }
}

/// Whether a process exists that is more than a zombie.
func isRunning(_ id: Int32) -> Bool {
    let status = try? String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8)
    return status.map { !$0.contains("State:\tZ") } ?? false
}
