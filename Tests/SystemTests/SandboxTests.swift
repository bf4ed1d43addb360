import Core
import Foundation
import TestSupport
import Testing

/// Who may do what: seen from outside on running processes, and tried from inside by a program that
/// locks itself in like them (Tests/SandboxProbe).
@Suite("Processes can do nothing but their job", .serialized)
struct SandboxTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    // MARK: From outside

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
        "no process has a capability, and all have filters, while a guest runs",
        .enabled(if: Setting.hasGuest))
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
        let backend = try #require(guest.backend?.id)
        #expect(try namespace("pid", of: backend) != namespace("pid", of: guest.apus.id))
        #expect(try guest.powerOff() == 0)
    }

    func namespace(_ kind: String, of id: Int32) throws -> String {
        try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(id)/ns/\(kind)")
    }

    @Test("a backend has no descriptor that it was not given", .enabled(if: Setting.hasGuest))
    func descriptors() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        for name in ["apus-block", "apus-launcher"] {
            let id = try #require(guest.apus.children.first { $0.arguments.first == name }?.id)
            let paths = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(id)/fd").map {
                try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(id)/fd/\($0)")
            }
            // Nothing of the kernel, the console or the guest's memory but what was sent: that is
            // mapped, and its descriptors are closed.
            let files = paths.filter { $0.hasPrefix("/") && $0 != "/dev/null" }
            let program = try #require(Setting.binary)
            let executable = URL(fileURLWithPath: program).resolvingSymlinksInPath().path
            let expected = name == "apus-block" ? [guest.disk] : [executable, guest.disk]
            #expect(Set(files).subtracting(Self.memory) == Set(expected))
            #expect(paths.filter { $0 == "/dev/null" }.count == 2)
            // Standard error of the VMM.
            #expect(paths.filter { $0.hasPrefix("pipe:") }.count == 1)
            // The front end and its back channel; the VMM.
            #expect(paths.filter { $0.hasPrefix("socket:") }.count <= 2)
        }
        #expect(try guest.powerOff() == 0)
    }

    static let memory: Set = [
        "/memfd:guest-memory (deleted)", "/memfd:vhost-inflight (deleted)",
    ]

    @Test(
        "a backend that is stopped still dies with the VMM", .enabled(if: Setting.hasGuest))
    func parentDeath() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let children = guest.apus.children.map(\.id)
        for id in children { kill(id, SIGSTOP) }
        guest.apus.kill(SIGKILL)
        _ = try guest.apus.wait()
        let deadline = Date() + 10
        while children.contains(where: isRunning), Date() < deadline { usleep(10_000) }
        #expect(!children.contains(where: isRunning))
    }

    @Test("without a sandbox it works as well", .enabled(if: Setting.hasGuest))
    func off() throws {
        let guest = try Guest(["--sandbox", "off", "--seccomp", "off"], in: folder)
        try guest.awaitShell()
        #expect(try Self.rights(guest.apus.id)["Seccomp"] == "0")
        #expect(try namespace("mnt", of: guest.apus.id) == namespace("mnt", of: getpid()))
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "an ordinary user gets all of it", .enabled(if: Setting.hasGuest && getuid() == 0),
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

    // MARK: From inside

    /// Calls that must not be made, by role: number and name.
    static let forbidden: [(String, Int, String, String)] = [
        ("vmm", 59, "execve", "sandbox-probe"), ("vmm", 257, "openat", "sandbox-probe"),
        ("vmm", 425, "io_uring_setup", "sandbox-probe"), ("vmm", 57, "fork", "sandbox-probe"),
        ("cpu", 41, "socket", "vcpu0"), ("cpu", 257, "openat", "vcpu0"),
        ("cpu", 46, "sendmsg", "vcpu0"), ("disk", 257, "openat", "disk0"),
        ("disk", 59, "execve", "disk0"), ("launcher", 101, "ptrace", "sandbox-probe"),
        ("launcher", 272, "unshare", "sandbox-probe"), ("block", 257, "openat", "sandbox-probe"),
        ("block", 59, "execve", "sandbox-probe"), ("block", 41, "socket", "sandbox-probe"),
        ("queue", 47, "recvmsg", "queue 0"), ("queue", 425, "io_uring_setup", "queue 0"),
        ("queue", 62, "kill", "queue 0"), ("queue", 257, "openat", "queue 0"),
        ("cpu", 59, "execve", "vcpu0"),
    ]

    @Test(
        "a forbidden system call ends the process and is named",
        .enabled(if: Probe.path != nil), arguments: forbidden)
    func stopped(role: String, number: Int, name: String, thread: String) throws {
        let probe = try Probe.run([role, "on", "call", String(number)])
        #expect(try probe.wait() == 7)
        #expect(
            probe.errorText
                == "probe: system call \(name) (number \(number)) is not allowed in thread \(thread)\n"
        )
        #expect(probe.text.isEmpty)
    }

    @Test("a filter in log mode stops nothing", .enabled(if: Probe.path != nil))
    func log() throws {
        let probe = try Probe.run(["block", "log", "call", "110"])  // getppid
        #expect(try probe.wait() == 0)
        #expect(Int(probe.text.dropLast()) ?? -1 > 0)
    }

    /// Ways to a file: what to do with it, and its path. The process was given `given`, open for
    /// reading, as descriptor 9.
    static func ways(_ folder: TestFolder) throws -> [(String, String)] {
        let secret = try folder.file("secret", Data([1]))
        let given = "\(folder.path)/given"
        return [
            ("read", "/etc/passwd"), ("read", secret), ("write", secret), ("read", given),
            ("write", given), ("make", "\(folder.path)/new"), ("make", "new"), ("make", "/new"),
            ("read", "/proc/self/status"), ("read", "/proc/self/fd/9"),
            ("write", "/proc/self/fd/9"),
            ("read", "/dev/fd/9"), ("read", "/proc/self/root/etc/passwd"), ("write", "/dev/null"),
            ("read", "../../../../../../etc/passwd"), ("read", "secret"),
        ]
    }

    static let unreachable = ["\(-ENOENT)\n", "\(-EACCES)\n", "\(-EROFS)\n"]

    @Test(
        "files are out of reach even without a filter", .enabled(if: Probe.path != nil),
        arguments: ["vmm", "cpu", "launcher", "block", "queue"])
    func files(role: String) throws {
        let given = try folder.file("given", Data([2]))
        for (what, path) in try Self.ways(folder) {
            let probe = try Probe.run([role, "off", what, path, given])
            #expect(try probe.wait() == 0)
            #expect(Self.unreachable.contains(probe.text), "\(what) \(path): \(probe.text)")
            #expect(probe.errorText.isEmpty)
        }
        #expect(!FileManager.default.fileExists(atPath: "\(folder.path)/new"))
    }

    @Test(
        "files are out of reach by Landlock alone, where the host gives no namespaces",
        .enabled(if: Probe.path != nil && getuid() == 0 && Probe.hasLandlock),
        arguments: ["vmm", "block"])
    func filesWithoutNamespaces(role: String) throws {
        let given = try folder.file("given", Data([2]))
        let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\""
        _ = try runTool("chmod", ["-R", "a+rwX", folder.path])
        let probe = "\(folder.path)/probe"
        try FileManager.default.copyItem(atPath: try #require(Probe.path), toPath: probe)
        for (what, path) in try Self.ways(folder) {
            let result = try runTool(
                "setpriv",
                [
                    "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Ur", "sh",
                    "-c",
                    forbid, "sh", probe, role, "off", what, path, given,
                ])
            #expect(result.code == 0)
            #expect(Self.unreachable.contains(result.output), "\(what) \(path): \(result.output)")
        }
        #expect(!FileManager.default.fileExists(atPath: "\(folder.path)/new"))
    }
}

/// Tests/SandboxProbe.
enum Probe {
    /// Beside the tests' own bundle.
    static let path: String? = {
        for candidate in CommandLine.arguments {
            let folder = URL(fileURLWithPath: candidate).deletingLastPathComponent()
            let path = folder.appending(component: "sandbox-probe").path
            if FileManager.default.isExecutableFile(atPath: path) { return path }
        }
        return nil
    }()

    /// Whether the host's kernel has Landlock switched on: else landlock_create_ruleset is ENOSYS
    /// or EOPNOTSUPP, whatever its arguments.
    static let hasLandlock: Bool = {
        guard path != nil, let probe = try? run(["vmm", "off", "call", "444"]),
            (try? probe.wait()) == 0
        else { return false }
        return probe.text != "\(-ENOSYS)\n" && probe.text != "\(-EOPNOTSUPP)\n"
    }()

    static func run(_ arguments: [String]) throws -> RunningProgram {
        try RunningProgram(try #require(path), arguments)
    }
}

/// A guest that is started by somebody who has no privileges.
final class UserGuest {
    let program: RunningProgram
    private let binary: String

    /// - Parameter mayHaveNamespaces: whether the host allows user namespaces.
    init(in folder: TestFolder, mayHaveNamespaces: Bool) throws {
        guard let built = Setting.binary else { throw TestFailure("there is no executable") }
        binary = "\(folder.path)/apus"
        let disk = "\(folder.path)/root.ext4"
        try Guest.makeDisk(disk)
        for name in ["vmlinuz", "initramfs"] {
            let source = URL(fileURLWithPath: try Guest.path(name)).resolvingSymlinksInPath()
            try FileManager.default.copyItem(
                at: source, to: URL(fileURLWithPath: "\(folder.path)/\(name)"))
        }
        let source = URL(fileURLWithPath: built).resolvingSymlinksInPath()
        try FileManager.default.copyItem(at: source, to: URL(fileURLWithPath: binary))
        _ = try runTool("chmod", ["-R", "a+rwX", folder.path])
        let forbid = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\""
        let start = mayHaveNamespaces ? [] : ["unshare", "-Ur", "sh", "-c", forbid, "sh"]
        program = try RunningProgram(
            "/usr/bin/env",
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] + start + [
                binary, "--kernel", "\(folder.path)/vmlinuz",
                "--initramfs", "\(folder.path)/initramfs", "--cmdline", "root=/dev/vda quiet",
                "--memory", "size=256M", "--disk", "path=\(disk)", "--log-level", "info",
            ])
    }

    func isOurs(_ process: (id: Int32, arguments: [String])) -> Bool {
        [binary, "apus-launcher", "apus-block"].contains(process.arguments.first)
    }
}
