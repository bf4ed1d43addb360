import BlockBackend
import CLinux
import CNativeRun
import ConsoleBackend
import Core
import FileSystemBackend
import Glibc
import NetworkBackend
import RandomBackend
import VMM
import VhostUser
import VsockBackend

/// Locks itself in like one of the product's threads, and then does what that must not do:
///
///     sandbox-probe ROLE on|log|off call NUMBER    makes a system call and prints what it returns
///     sandbox-probe ROLE on|log|off ioctl REQUEST  the same with ioctl and a request
///     sandbox-probe ROLE on|log|off read|write|make PATH [GIVEN]
///                                                  opens a file with the ways that are left
///     sandbox-probe ROLE on|log|off beneath PATH   opens a file from the folder that is shared
///
/// The file GIVEN is open for reading from before, as descriptor 9. Roles that work with files may
/// do so below the folder that the environment calls SHARE, open as descriptor 10.
@main
enum SandboxProbe {
    /// A process's rules, and those of the thread that does it, if that is another one.
    struct Role {
        let process: SystemCallRules
        var thread: (name: String, rules: SystemCallRules)?
        /// It works with the files in the folder SHARE.
        var hasFolder = false
    }

    static let roles: [String: Role] = [
        "vmm": Role(process: VMMSystemCalls.control),
        "cpu": Role(process: VMMSystemCalls.control, thread: ("vcpu0", VMMSystemCalls.cpu)),
        "device": Role(
            process: VMMSystemCalls.control, thread: ("device0", VMMSystemCalls.device)),
        "launcher": Role(process: Launcher.launching(BlockSystemCalls.control)),
        "block": Role(process: BlockSystemCalls.control),
        "console": Role(process: BackendKind.console.systemCalls()),
        "net": Role(process: NetworkSystemCalls.control),
        "pair": Role(
            process: NetworkSystemCalls.control, thread: ("pair 0", NetworkSystemCalls.pair)),
        "rng": Role(process: BackendKind.random.systemCalls()),
        "vsock": Role(process: BackendKind.vsock.systemCalls()),
        "queue": Role(
            process: BlockSystemCalls.control, thread: ("queue 0", BlockSystemCalls.queue)),
        "fs": Role(process: FSSystemCalls.control, hasFolder: true),
        "fs-queue": Role(
            process: FSSystemCalls.control, thread: ("queue 1", FSSystemCalls.queue()),
            hasFolder: true),
    ]

    static func main() throws {
        let arguments = CommandLine.arguments
        guard (5...6).contains(arguments.count), let role = roles[arguments[1]],
            let seccomp = SandboxOptions.Seccomp(rawValue: arguments[2])
        else { exit(2) }
        if arguments.count == 6 {
            guard unsafe dup2(clinux_open(arguments[5], O_RDONLY, 0), 9) == 9 else { exit(2) }
        }
        let options = SandboxOptions(seccomp: seccomp)
        let sandbox = Sandbox(options, program: "probe", descriptorLimit: 64)
        let folders = role.hasFolder ? [try share()] : []
        defer { withExtendedLifetime(folders) {} }
        try sandbox.enter(role.process, folders: folders)
        guard let (name, rules) = role.thread else { return act(arguments[3], arguments[4]) }
        let filter = try SeccompFilter(rules, seccomp)
        try Thread(name: name) {
            filter?.loadOrEnd()
            act(arguments[3], arguments[4])
        }.join()
    }

    static func share() throws -> SharedFD {
        guard let path = unsafe getenv("SHARE"),
            unsafe dup2(clinux_open_share(path, 0), 10) == 10
        else { exit(2) }
        return SharedFD(owning: 10)
    }

    static func act(_ what: String, _ text: String) {
        switch what {
        // A name below the share; it is as if code of a driver's had taken over the thread.
        case "beneath": report(unsafe openat(10, text, O_RDONLY) < 0 ? -Int(errno) : 0)
        case "call": report(native_system_call(Int(text) ?? -1))
        case "ioctl": report(native_ioctl(UInt(text) ?? 0))
        case "read": report(Int(unsafe clinux_open(text, O_RDONLY, 0)))
        case "write": report(Int(unsafe clinux_open(text, O_RDWR, 0)))
        case "make": report(Int(unsafe clinux_open(text, O_RDWR | O_CREAT, 0o600)))
        default: exit(2)
        }
    }

    static func report(_ result: Int) {
        let text = "\(result)\n"
        _ = unsafe write(STDOUT_FILENO, text, text.utf8.count)
    }
}
