import Core
import Foundation
import TestSupport
import Testing

/// Somebody's guest whose shell takes commands.
protocol GuestShell {
    func send(_ command: String) throws
    /// - Returns: what it prints, line ends as spaces.
    func run(_ command: String, seconds: Double) throws -> String
    func powerOff() throws
}

struct OwnGuest: GuestShell {
    let guest: Guest

    func send(_ command: String) { guest.send(command) }
    func run(_ command: String, seconds: Double) throws -> String {
        try guest.run(command, seconds: seconds)
    }
    func powerOff() throws { #expect(try guest.powerOff() == 0) }
}

struct QEMUGuest: GuestShell {
    let machine: QEMU

    func send(_ command: String) throws { try machine.console.type(command) }
    func run(_ command: String, seconds: Double) throws -> String {
        try machine.console.ask(command, seconds: UInt64(seconds))
            .replacingOccurrences(of: "\n", with: " ")
    }
    func powerOff() throws {
        try send("exit")
        #expect(machine.awaitEnd() == .exited(0))
    }
}

/// What a station was told to do.
struct Job {
    /// The name of its files.
    let name: String
}

/// Somebody on a network who runs commands: a guest, or a namespace of the host.
final class Station {
    let address: String
    let shell: (any GuestShell)?
    private let prefix: [String]
    private let folder: TestFolder
    private var programs: [RunningProgram] = []
    private var jobs = 0

    init(_ address: String, _ shell: any GuestShell) throws {
        self.address = address
        self.shell = shell
        prefix = []
        folder = try TestFolder()
    }

    init(_ address: String, _ space: NetworkNamespace) throws {
        self.address = address
        shell = nil
        prefix = space.prefix
        // In memory, so that what arrives need not wait for a disk.
        folder = try TestFolder(in: "/dev/shm")
    }

    private func script(_ script: String) throws -> String {
        let nc = shell == nil ? "\(try Guest.path("busybox")) nc" : "nc"
        let place = shell == nil ? folder.path : "/run"
        return "cd \(place); \(script.replacingOccurrences(of: "NC ", with: nc + " "))"
    }

    /// Runs a short command.
    /// - Returns: what it prints, line ends as spaces.
    func run(_ command: String) throws -> String {
        if let shell { return try shell.run(script(command), seconds: 120) }
        let result = try runTool("/usr/bin/env", prefix + ["sh", "-c", script(command)])
        guard result.code == 0 else { throw TestFailure("\(command): \(result.output)") }
        return result.output.trimmingCharacters(in: .whitespacesAndNewlines)
            .replacingOccurrences(of: "\n", with: " ")
    }

    /// Starts what may take long. A file `progress` that it writes says how far it is.
    func start(_ command: String) throws -> Job {
        jobs += 1
        let job = Job(name: "job\(jobs)")
        let line = try script(
            "rm -f progress; (\(command)) >\(job.name).out 2>\(job.name).errors; "
                + "mv \(job.name).out \(job.name).end")
        if let shell {
            try shell.send("(\(line)) </dev/null &")
        } else {
            programs.append(try RunningProgram("/usr/bin/env", prefix + ["sh", "-c", line]))
        }
        return job
    }

    /// Something that changes as long as bytes come and go, 64 KiB at least, or `progress` does.
    private static let signOfLife =
        "awk 'NR > 2 { sub(/.*:/, \"\"); n += $1 + $9 } END { printf \"%.0f \", n / 65536 }' "
        + "/proc/net/dev; cat progress 2>/dev/null; true"

    /// Waits for the end, for as long as it takes if there are signs of life.
    /// - Parameter patience: seconds without any.
    /// - Returns: what it has printed.
    func finish(_ job: Job, patience: Double = 120) throws -> String {
        var sign = ""
        var deadline = Date() + patience
        while true {
            let answer = try run(
                "if [ -e \(job.name).end ]; then echo end; else \(Self.signOfLife); fi")
            if answer == "end" { return try run("cat \(job.name).end") }
            if answer != sign {
                sign = answer
                deadline = Date() + patience
            }
            guard Date() < deadline else {
                let errors = try run("cat \(job.name).errors")
                throw TestFailure("nothing moves at \(address) any more (\(sign)): \(errors)")
            }
            usleep(500_000)
        }
    }
}
