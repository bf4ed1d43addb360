import CLinux
import Foundation
import TestSupport
import Testing

/// Who may do what, tried by a program that locks itself in like the product's threads
/// (Tests/SandboxProbe).
@Suite("What a sandbox stops")
struct SandboxProbeTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Calls that must not be made, by role: number and name.
    static let forbidden: [(String, Int, String, String)] = [
        ("vmm", 59, "execve", "sandbox-probe"), ("vmm", 257, "openat", "sandbox-probe"),
        ("vmm", 425, "io_uring_setup", "sandbox-probe"), ("vmm", 57, "fork", "sandbox-probe"),
        ("cpu", 41, "socket", "vcpu0"), ("cpu", 257, "openat", "vcpu0"),
        ("cpu", 46, "sendmsg", "vcpu0"), ("device", 257, "openat", "device0"),
        ("device", 59, "execve", "device0"), ("launcher", 101, "ptrace", "sandbox-probe"),
        ("launcher", 272, "unshare", "sandbox-probe"), ("block", 257, "openat", "sandbox-probe"),
        ("block", 59, "execve", "sandbox-probe"), ("block", 41, "socket", "sandbox-probe"),
        ("console", 59, "execve", "sandbox-probe"), ("rng", 257, "openat", "sandbox-probe"),
        ("vsock", 257, "openat", "sandbox-probe"), ("vsock", 59, "execve", "sandbox-probe"),
        ("queue", 47, "recvmsg", "queue 0"), ("queue", 425, "io_uring_setup", "queue 0"),
        ("queue", 62, "kill", "queue 0"), ("queue", 257, "openat", "queue 0"),
        ("cpu", 59, "execve", "vcpu0"),
        ("rng", 41, "socket", "sandbox-probe"), ("rng", 425, "io_uring_setup", "sandbox-probe"),
        ("rng", 59, "execve", "sandbox-probe"),
        ("net", 257, "openat", "sandbox-probe"), ("net", 59, "execve", "sandbox-probe"),
        ("net", 41, "socket", "sandbox-probe"), ("net", 272, "unshare", "sandbox-probe"),
        ("pair", 257, "openat", "pair 0"), ("pair", 81, "fchdir", "pair 0"),
        ("pair", 41, "socket", "pair 0"), ("pair", 16, "ioctl", "pair 0"),
        ("fs", 59, "execve", "sandbox-probe"), ("fs", 41, "socket", "sandbox-probe"),
        ("fs", 165, "mount", "sandbox-probe"), ("fs", 304, "open_by_handle_at", "sandbox-probe"),
        ("fs-queue", 272, "unshare", "queue 1"), ("fs-queue", 47, "recvmsg", "queue 1"),
        ("fs-queue", 105, "setuid", "queue 1"), ("fs-queue", 161, "chroot", "queue 1"),
    ]

    @Test(
        "a forbidden system call ends the process and is named",
        .needs(.probe), arguments: forbidden)
    func stopped(role: String, number: Int, name: String, thread: String) throws {
        let probe = try Probe.run([role, "on", "call", String(number)])
        #expect(try probe.wait() == 7)
        #expect(
            probe.errorText
                == "probe: system call \(name) (number \(number)) is not allowed in thread"
                + " \(thread)\n")
        #expect(probe.text.isEmpty)
    }

    /// Requests of KVM, by role, and whether they may be made.
    static let requests: [(String, UInt, Bool)] = [
        ("vmm", CLINUX_KVM_CREATE_VM, true), ("cpu", CLINUX_KVM_CREATE_VM, false),
        ("cpu", CLINUX_KVM_CHECK_EXTENSION, false), ("cpu", CLINUX_KVM_GET_REGS, true),
        ("cpu", CLINUX_KVM_SIGNAL_MSI, true), ("cpu", CLINUX_KVM_IRQFD, true),
        ("cpu", CLINUX_KVM_IOEVENTFD, true), ("device", CLINUX_KVM_CREATE_VM, false),
        ("device", CLINUX_KVM_CREATE_VCPU, false),
        ("device", CLINUX_KVM_SET_USER_MEMORY_REGION, false),
        ("device", CLINUX_KVM_SET_REGS, false), ("device", CLINUX_KVM_IRQFD, true),
        ("device", CLINUX_KVM_SET_GSI_ROUTING, true), ("device", CLINUX_KVM_SIGNAL_MSI, true),
        ("device", CLINUX_KVM_IOEVENTFD, false), ("block", CLINUX_KVM_IRQFD, false),
        ("rng", CLINUX_KVM_IRQFD, false),
    ]

    @Test(
        "threads may ask KVM for what they need only", .needs(.probe),
        arguments: requests)
    func kvmRequests(role: String, request: UInt, isAllowed: Bool) throws {
        let probe = try Probe.run([role, "on", "ioctl", String(request)])
        #expect(try probe.wait() == (isAllowed ? 0 : 7))
        #expect(probe.text == (isAllowed ? "\(-EBADF)\n" : ""))
        #expect(probe.errorText.contains("system call ioctl (number 16)") != isAllowed)
    }

    @Test("a filter in log mode stops nothing", .needs(.probe))
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
        "files are out of reach even without a filter", .needs(.probe),
        arguments: [
            "vmm", "cpu", "launcher", "block", "queue", "net", "pair", "rng", "fs", "fs-queue",
        ])
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
        "a shared folder has nothing above it, even without a filter",
        .needs(.probe), arguments: ["fs", "fs-queue"])
    func sharedFolder(role: String) throws {
        _ = try folder.file("secret", [1])
        let share = "\(folder.path)/share"
        let make = "mkdir -p '\(share)/inner' && cd '\(share)' && echo x >inner/file"
        #expect(
            try runTool("sh", ["-c", "\(make) && ln -s ../secret link && ln -s / root"]).code == 0)
        func open(_ path: String) throws -> String {
            let probe = try Probe.run([role, "off", "beneath", path], share: share)
            #expect(try probe.wait() == 0)
            return probe.text
        }
        #expect(try open("inner/file") == "0\n")
        for path in [
            "../secret", "inner/../../secret", "link", "root/etc/passwd", "../../../etc/passwd",
            "/etc/passwd",
        ] { #expect(Self.unreachable.contains(try open(path)), "\(path)") }
    }

    @Test(
        "files are out of reach by Landlock alone, where the host gives no namespaces",
        .needs(.probe, .root, .landlock),
        arguments: ["vmm", "block"])
    func filesWithoutNamespaces(role: String) throws {
        let given = try folder.file("given", Data([2]))
        // Here the user is root, who may have the other namespaces as well.
        let forbid =
            "cd /proc/sys/user && echo 0 > max_mnt_namespaces && echo 0 > max_user_namespaces"
            + " && cd '\(folder.path)' && exec \"$@\""
        _ = try runTool("chmod", ["-R", "a+rwX", folder.path])
        let probe = "\(folder.path)/probe"
        try copyProgram(#require(Probe.path), to: probe)
        for (what, path) in try Self.ways(folder) {
            let result = try runTool(
                "setpriv",
                [
                    "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Ur", "sh",
                    "-c", forbid, "sh", probe, role, "off", what, path, given,
                ])
            #expect(result.code == 0)
            #expect(result.output == "\(-EACCES)\n", "\(what) \(path)")
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

    /// - Parameter share: for roles that share a folder.
    static func run(_ arguments: [String], share: String = "/mnt") throws -> RunningProgram {
        try RunningProgram("/usr/bin/env", ["SHARE=\(share)", try #require(path)] + arguments)
    }
}
