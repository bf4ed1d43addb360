import BenchmarkSupport
import Core
import Foundation
import TestSupport

/// What is known of a running machine from outside, in nanoseconds since its start.
struct Moment {
    var wall: UInt64
    /// CPU time of all its processes, and of the monitor's alone.
    var cpu: UInt64
    var monitorCPU: UInt64
}

/// A virtual machine whose serial port is read here. Its processes are killed when it is forgotten.
/// It belongs to the thread that made it, which must be the program's only one: the standard
/// streams are this process's own while the machine's are made.
final class RunningMachine {
    /// What a guest's output shows.
    enum Stage: CaseIterable {
        case firstCharacter, firstLine, firstUserLine, prompt
    }

    /// One direction of a pipe.
    private struct Pipe {
        let reading: SharedFD
        let writing: SharedFD

        init() throws {
            var ends: [Int32] = [-1, -1]
            // SAFETY: the array has room for both descriptors.
            guard unsafe pipe(&ends) == 0 else {
                throw SystemError("pipe", errno: errno)
            }
            reading = SharedFD(owning: ends[0])
            writing = SharedFD(owning: ends[1])
        }
    }

    let monitor: Monitor
    private let start: UInt64
    /// Those that were started beside the monitor.
    private let backends: [PeerProcess]
    private let process: ChildProcess
    private let input: SharedFD
    private let output: SharedFD
    private var isOutputOver = false
    private var line: [UInt8] = []
    private(set) var text: [UInt8] = []
    private(set) var stages: [Stage: Moment] = [:]
    private(set) var end: (status: ChildStatus, wall: UInt64)?
    /// All that belong to the machine, known from the first character on.
    private(set) var processes: [Int32] = []

    init(_ monitor: Monitor, _ machine: MachineDescription, _ programs: Programs) throws {
        self.monitor = monitor
        let (input, output) = (try Pipe(), try Pipe())
        start = Clock.monotonic()
        backends =
            monitor == .qemuVhostUser
            ? try Self.serve(machine.disks, programs) : []
        let (path, arguments) = monitor.command(machine, programs)
        process = try Self.withStreams(input.reading, output.writing) {
            try ChildProcess(path: path, arguments: [path] + arguments, environment: [])
        }
        self.input = input.writing
        self.output = output.reading
        _ = fcntl(self.output.rawValue, F_SETFL, O_NONBLOCK)
    }

    deinit {
        if end == nil { process.kill() }
    }

    /// Starts a backend for each disk, and waits for its socket.
    private static func serve(_ disks: [String], _ programs: Programs) throws -> [PeerProcess] {
        let sockets = disks.map(MachineDescription.socket)
        for socket in sockets { unsafe unlink(socket) }
        let backends = try disks.map { disk in
            try PeerProcess(
                programs.apus,
                [
                    "block", "--socket-path", MachineDescription.socket(disk), "--disk",
                    "path=\(disk)",
                ])
        }
        let patience = Clock.monotonic() + 5_000_000_000
        for socket in sockets {
            while unsafe access(socket, F_OK) != 0 {
                guard Clock.monotonic() < patience else {
                    throw OptionError("apus block does not listen at '\(socket)'")
                }
                usleep(100)
            }
        }
        return backends
    }

    /// Programs inherit the standard streams as they are now.
    private static func withStreams<R>(
        _ input: SharedFD, _ output: SharedFD, _ body: () throws -> R
    ) throws -> R {
        let own = [fcntl(0, F_DUPFD_CLOEXEC, 3), fcntl(1, F_DUPFD_CLOEXEC, 3)]
        defer {
            for (stream, fd) in own.enumerated() {
                dup2(fd, Int32(stream))
                close(fd)
            }
        }
        dup2(input.rawValue, 0)
        dup2(output.rawValue, 1)
        return try body()
    }

    // MARK: Watching

    /// Serves the machines until all of them are as wanted.
    static func wait(
        for machines: [RunningMachine], seconds: Int, _ what: String,
        until isDone: (RunningMachine) -> Bool
    ) throws {
        let deadline = Clock.monotonic() + UInt64(seconds) * 1_000_000_000
        while let waiting = machines.first(where: { !isDone($0) }) {
            guard Clock.monotonic() < deadline, waiting.end == nil else {
                let fate = waiting.end.map { "\($0.status)" } ?? "took over \(seconds) s"
                let tail = String(decoding: waiting.text.suffix(400), as: UTF8.self)
                throw OptionError("\(waiting.monitor.title) \(fate) before \(what): \(tail)")
            }
            var polled: [pollfd] = []
            for machine in machines where machine.end == nil {
                let output = machine.isOutputOver ? -1 : machine.output.rawValue
                polled.append(pollfd(fd: output, events: Int16(POLLIN), revents: 0))
                polled.append(
                    pollfd(fd: machine.process.fd.rawValue, events: Int16(POLLIN), revents: 0))
            }
            // SAFETY: the array lives for the call.
            _ = unsafe poll(&polled, nfds_t(polled.count), 100)
            let now = Clock.monotonic()
            for machine in machines { machine.take(now) }
        }
    }

    func wait(seconds: Int = 60, for stage: Stage) throws {
        try Self.wait(for: [self], seconds: seconds, "\(stage)") { $0.stages[stage] != nil }
    }

    /// Waits until the monitor has ended.
    func waitForEnd(seconds: Int = 60) throws {
        while end == nil {
            try Self.wait(for: [self], seconds: seconds, "its end") { $0.end != nil }
        }
    }

    private func take(_ now: UInt64) {
        var buffer = [UInt8](repeating: 0, count: 16384)
        while !isOutputOver {
            // SAFETY: the buffer lives for the call.
            let count = unsafe read(output.rawValue, &buffer, buffer.count)
            if count == 0 { isOutputOver = true }
            guard count > 0 else { break }
            text += buffer.prefix(count)
            for byte in buffer.prefix(count) { take(byte, now) }
        }
        if end == nil, let status = process.reap() { end = (status, now - start) }
    }

    private func take(_ byte: UInt8, _ now: UInt64) {
        if processes.isEmpty { reach(.firstCharacter, now) }
        if byte == UInt8(ascii: "\n") {
            if line.first == UInt8(ascii: "[") { reach(.firstLine, now) }
            if line.starts(with: Array("initramfs: ".utf8)) { reach(.firstUserLine, now) }
            line = []
        } else if byte != UInt8(ascii: "\r") {
            line.append(byte)
            if line == Array("/ # ".utf8) { reach(.prompt, now) }
        }
    }

    private func reach(_ stage: Stage, _ now: UInt64) {
        guard stages[stage] == nil else { return }
        if processes.isEmpty { findProcesses() }
        let cpu = processes.reduce(0) { $0 + (PeerProcess.cpuTime(of: $1) ?? 0) }
        let monitorCPU = PeerProcess.cpuTime(of: process.processID) ?? 0
        stages[stage] = Moment(wall: now - start, cpu: cpu, monitorCPU: monitorCPU)
    }

    private func findProcesses() {
        let monitorID = process.processID
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        let children = names.compactMap { Int32($0) }.filter { id in
            guard let status = try? String(contentsOfFile: "/proc/\(id)/stat", encoding: .utf8),
                // After the name, in parentheses: state and parent.
                let fields = status.split(separator: ")").last?.split(separator: " ")
            else { return false }
            return fields.count > 1 && Int32(fields[1]) == monitorID
        }
        processes = [monitorID] + children.sorted() + backends.map(\.processID)
    }

    /// What a process calls itself.
    static func name(of process: Int32) -> String {
        let line = FileManager.default.contents(atPath: "/proc/\(process)/cmdline") ?? Data()
        let words = line.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        let name = words.first?.split(separator: "/").last.map(String.init) ?? "?"
        return words.dropFirst().first == "block" ? "\(name) block" : name
    }
}
