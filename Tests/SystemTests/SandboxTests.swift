import CLinux
import Core
import Foundation
import TestSupport
import Testing

/// Who may do what, seen from outside on running processes.
@Suite("Processes can do nothing but their job")
struct SandboxTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    static let nothing = "0000000000000000"
    static let wanted = [
        "CapInh": nothing, "CapPrm": nothing, "CapEff": nothing, "CapBnd": nothing,
        "CapAmb": nothing, "NoNewPrivs": "1", "Seccomp": "2",
    ]

    /// The lines of /proc/PID/status that say what a process may do.
    static func rights(_ id: Int32) throws -> [String: String] {
        let text = try String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8)
        let pairs = text.split(separator: "\n").compactMap { line -> (String, String)? in
            let parts = line.split(separator: ":\t", maxSplits: 1).map(String.init)
            return parts.count == 2 && wanted[parts[0]] != nil ? (parts[0], parts[1]) : nil
        }
        return Dictionary(uniqueKeysWithValues: pairs)
    }

    @Test(
        "no process has a capability or a descriptor that it was not given, and all have filters",
        .needs(.guest))
    func status() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let children = guest.apus.children
        #expect(Set(children.map { $0.arguments.first }) == ["apus-launcher", "apus-block"])
        for id in [guest.apus.id] + children.map(\.id) {
            #expect(try Self.rights(id) == Self.wanted)
            for task in try FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/task") {
                #expect(try Self.rights(try #require(Int32(task))) == Self.wanted)
            }
            #expect(try FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/root") == [])
            for kind in ["user", "mnt", "net", "ipc"] {
                #expect(try namespace(kind, of: id) != namespace(kind, of: getpid()))
            }
        }
        // They are made once.
        let launcher = try #require(children.first { $0.arguments.first == "apus-launcher" }?.id)
        for kind in ["user", "mnt", "net", "ipc"] {
            #expect(try namespace(kind, of: launcher) == namespace(kind, of: guest.apus.id))
        }
        let backend = try #require(guest.backend?.id)
        #expect(try namespace("pid", of: backend) != namespace("pid", of: guest.apus.id))
        try checkDescriptors(of: guest)
        #expect(try guest.powerOff() == 0)
    }

    func namespace(_ kind: String, of id: Int32) throws -> String {
        try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(id)/ns/\(kind)")
    }

    private func checkDescriptors(of guest: Guest) throws {
        for name in ["apus-block", "apus-launcher"] {
            let id = try #require(guest.apus.child(name))
            let paths = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/fd").map {
                try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(id)/fd/\($0)")
            }
            // Nothing of the kernel, the console or the guest's memory but what was sent: that is
            // mapped, and its descriptors are closed.
            let files = paths.filter { $0.hasPrefix("/") && $0 != "/dev/null" }
            #expect(Set(files).subtracting(Self.memory) == [guest.disk])
            #expect(paths.filter { $0 == "/dev/null" }.count == 2)
            // Standard error of the VMM.
            #expect(paths.filter { $0.hasPrefix("pipe:") }.count == 1)
            // The front end and its back channel; the VMM.
            #expect(paths.filter { $0.hasPrefix("socket:") }.count <= 2)
        }
    }

    /// What standard error can be while it is open for reading, too.
    enum Errors: CaseIterable {
        case terminal, socket, file

        /// - Returns: where messages come out, and standard error.
        func open(in folder: TestFolder) throws -> (near: SharedFD, far: SharedFD) {
            switch self {
            case .terminal:
                let near = try Self.open("/dev/ptmx", O_RDWR | O_NOCTTY)
                var locked: Int32 = 0
                var number: Int32 = 0
                // SAFETY: both requests take a pointer to a number, which lives for the call.
                try unsafe withUnsafeMutablePointer(to: &locked) {
                    _ = try checking(
                        "TIOCSPTLCK",
                        clinux_ioctl(near.rawValue, 0x4004_5431, UInt(bitPattern: $0)))
                }
                try unsafe withUnsafeMutablePointer(to: &number) {
                    _ = try checking(
                        "TIOCGPTN",
                        clinux_ioctl(near.rawValue, 0x8004_5430, UInt(bitPattern: $0)))
                }
                return (near, try Self.open("/dev/pts/\(number)", O_RDWR | O_NOCTTY))
            case .socket:
                let (near, far) = try UnixSocket.pair()
                return (near.fd, far.fd)
            case .file:
                let path = try folder.file("errors")
                return (try Self.open(path, O_RDONLY), try Self.open(path, O_RDWR))
            }
        }

        private static func open(_ path: String, _ flags: Int32) throws -> SharedFD {
            SharedFD(owning: try checking("open", unsafe clinux_open(path, flags, 0)))
        }
    }

    @Test(
        "backends can write to standard error, and not read from it",
        .needs(.executable), arguments: Errors.allCases)
    func standardError(errors: Errors) throws {
        let (near, far) = try errors.open(in: folder)
        let apus = try start(
            [
                "--kernel", try folder.file("kernel", TinyKernel.halts), "--serial", "off",
                "--disk", "path=\(try folder.sparse("image", size: 1 << 20))",
                "--log-level", "info",
            ], errors: far)
        defer { apus.kill() }
        var text = ""
        let deadline = Date() + 20
        while !text.contains("apus-block: info: "), Date() < deadline {
            text += readNow(near)
            usleep(5000)
        }
        #expect(text.contains("apus-block: info: "), "\(text)")
        let children = RunningProgram.children(of: apus.processID)
        #expect(Set(children.map { $0.arguments.first }) == ["apus-launcher", "apus-block"])
        for (id, arguments) in children {
            let info = try String(contentsOfFile: "/proc/\(id)/fdinfo/2", encoding: .utf8)
            let flags = info.split(separator: "\n").first { $0.hasPrefix("flags:\t") }
            let mode = flags.flatMap { Int32($0.dropFirst(7), radix: 8) }.map { $0 & O_ACCMODE }
            #expect(mode == O_WRONLY, "\(arguments.first ?? ""): \(info)")
        }
    }

    @Test(
        "what a backend says before it ends at once comes out",
        .needs(.executable), arguments: Errors.allCases)
    func lastWords(errors: Errors) throws {
        let image = try folder.sparse("image", size: 1 << 20)
        let kernel = try folder.file("kernel", TinyKernel.halts)
        // It is a race, so it is tried more than once.
        for _ in 0..<5 {
            let (near, far) = try errors.open(in: folder)
            let apus = try start(
                ["--kernel", kernel, "--serial", "off", "--disk", "path=\(image),engine=aio"],
                errors: far)
            #expect(apus.wait(milliseconds: 20_000) == .exited(1))
            let text = readNow(near)
            #expect(text.contains("apus-block: error: engine=aio needs direct=on"), "\(text)")
        }
    }

    /// Starts the executable under test with a standard error of its own.
    private func start(_ arguments: [String], errors: SharedFD) throws -> ChildProcess {
        try ChildProcess(
            path: "/bin/sh",
            arguments: ["sh", "-c", "exec \"$@\" 2>&5 5>&-", "sh", try #require(Setting.binary)]
                + arguments,
            environment: ["PATH=/bin"], descriptors: [(errors, 5)])
    }

    /// What can be read without waiting.
    private func readNow(_ fd: SharedFD) -> String {
        _ = fcntl(fd.rawValue, F_SETFL, O_NONBLOCK)
        var piece = [UInt8](repeating: 0, count: 4096)
        // SAFETY: the array has as many bytes.
        let count = unsafe read(fd.rawValue, &piece, piece.count)
        return String(decoding: piece.prefix(max(count, 0)), as: UTF8.self)
    }

    static let memory: Set = [
        "/memfd:guest-memory (deleted)", "/memfd:vhost-inflight (deleted)",
    ]

    @Test(
        "a backend that is stopped still dies with the VMM", .needs(.executable))
    func parentDeath() throws {
        let machine = try TinyMachine(in: folder)
        let children = machine.apus.children.map(\.id)
        #expect(children.count == 2)
        for id in children { kill(id, SIGSTOP) }
        machine.apus.kill(SIGKILL)
        _ = try machine.apus.wait()
        let deadline = Date() + 10
        while children.contains(where: isRunning), Date() < deadline { usleep(10_000) }
        #expect(!children.contains(where: isRunning))
    }

    @Test("without a sandbox it works as well", .needs(.guest))
    func off() throws {
        let guest = try Guest(["--sandbox", "off", "--seccomp", "off"], in: folder)
        try guest.awaitShell()
        #expect(try Self.rights(guest.apus.id)["Seccomp"] == "0")
        #expect(try namespace("mnt", of: guest.apus.id) == namespace("mnt", of: getpid()))
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "an ordinary user gets all of it", .needs(.guest, .root),
        arguments: [true, false])
    func unprivileged(mayHaveNamespaces: Bool) throws {
        let guest = try UserGuest(in: folder, mayHaveNamespaces: mayHaveNamespaces)
        try guest.program.waitFor("apus-guest: ready", seconds: 120)
        let processes = guest.program.descendants.filter { guest.isOurs($0) }
        #expect(processes.count == 3)
        for process in processes {
            let rights = try Self.rights(process.id)
            for key in ["CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp"] {
                #expect(rights[key] == Self.wanted[key])
            }
            #expect(rights["CapBnd"] == Self.nothing || !mayHaveNamespaces)
        }
        #expect(
            guest.program.errorText.contains("does not give this process a user namespace")
                == !mayHaveNamespaces)
        guest.program.send("exit\n")
        #expect(try guest.program.wait() == 0)
    }
}
