import CLinux
import Core
import Glibc
import TestSupport
import Testing

/// What system tests need from outside: our executable, the guest that `./test` makes, and programs
/// of others. A test whose means are missing is skipped, and says which.
enum Means {
    /// Our executable.
    static let apus = Setting.binary

    /// The folder with the kernel, the initramfs and the root disk's content.
    static let guest = Setting.guest

    static func exists(_ path: String) -> Bool { unsafe access(path, R_OK) == 0 }
    /// QEMU's own server of folders, which only root can run.
    static let virtiofsd = "/usr/lib/qemu/virtiofsd"
    static var hasVirtiofsd: Bool { isExecutable(virtiofsd) && geteuid() == 0 }

    /// The QEMU that most tests use.
    static let qemu = Setting.environment["APUS_QEMU"] ?? program("qemu-system-x86_64")

    /// QEMU 8.2 or newer: what ./test has fetched, or the host's own.
    static let newQEMU: String? = [Setting.environment["APUS_QEMU_NEW"], qemu].compactMap { $0 }
        .first(where: migratesFolders)

    /// Whether a QEMU is of version 8.2 or newer.
    static func migratesFolders(_ path: String) -> Bool {
        guard let found = try? runTool(path, ["--version"]),
            let version = found.output.split(separator: " ").first(where: {
                $0.first?.isNumber == true
            })
        else { return false }
        let numbers = version.split(separator: ".").prefix(2).compactMap { Int($0) }
        return numbers.count == 2 && (numbers[0], numbers[1]) >= (8, 2)
    }

    static func isExecutable(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }

    /// A program of that name in the usual folders.
    static func program(_ name: String) -> String? {
        ["/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"].map { $0 + name }.first(where: isExecutable)
    }
}

/// Runs programs.
enum Command {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Starts a program from the usual folders, or by its path.
    static func start(_ program: String, _ arguments: [String]) throws -> PeerProcess {
        guard let path = program.hasPrefix("/") ? program : Means.program(program) else {
            throw Failure(description: "there is no program \(program)")
        }
        return PeerProcess(
            try ChildProcess(
                path: path, arguments: [program] + arguments,
                environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"]))
    }

    /// Runs a program to its end; a status other than 0 is an error.
    static func run(_ program: String, _ arguments: String...) throws {
        let status = try start(program, arguments).wait()
        guard status == .exited(0) else {
            throw Failure(description: "\(program) \(arguments) \(status)")
        }
    }
}

/// A program that a test has started; killed, if it is still there, when the test is over.
final class PeerProcess {
    private let child: ChildProcess
    private var status: ChildStatus?

    init(_ child: ChildProcess) { self.child = child }

    deinit { kill() }

    var isRunning: Bool {
        if status == nil { status = child.reap() }
        return status == nil
    }

    /// How it ends; after `seconds` it is killed.
    @discardableResult
    func wait(seconds: UInt64 = 60) -> ChildStatus {
        if let status { return status }
        var end = child.wait(milliseconds: Int32(clamping: seconds * 1000))
        if end == nil {
            child.signal(SIGKILL)
            end = child.wait()
        }
        status = end
        // SIGKILL leaves no choice.
        return end ?? .killed(signal: SIGKILL)
    }

    func signal(_ number: Int32) { child.signal(number) }

    func kill() {
        signal(SIGKILL)
        wait()
    }
}
