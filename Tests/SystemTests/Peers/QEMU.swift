import CLinux
import Core
import Glibc
import TestSupport

/// A virtual machine of QEMU under software emulation: two CPUs, Debian's kernel, a serial console
/// and a monitor.
final class QEMU {
    private let process: PeerProcess
    private let monitorPath: String
    let console: GuestConsole

    static var isThere: Bool { Means.program("qemu-system-x86_64") != nil }

    /// How the guest's processor is set up.
    enum Processor {
        /// Two CPUs with all that QEMU can emulate.
        case full
        /// For migrating. QEMU before 8.2 forgets to reset its TLBs when it collects dirty pages,
        /// so that it loses the CPUs' own writes, whatever the disk. It works when TLBs are flushed
        /// all the time: one CPU without global pages and PCID, and a kernel that changes page
        /// tables at every entry.
        case flushing

        var arguments: [String] {
            switch self {
            case .full: ["-cpu", "max", "-smp", "2"]
            case .flushing: ["-cpu", "max,-pge,-pcid,-la57", "-smp", "1"]
            }
        }

        var commandLine: String { self == .full ? "" : " pti=on" }
    }

    /// - Parameters:
    ///   - program: another one than that of APUS_QEMU, or the host's own.
    ///   - guest: the folder with the kernel; `nil` if the firmware boots from a device.
    ///   - devices: further arguments, for example a disk.
    init(
        _ name: String, in folder: TestFolder, guest: String?, processor: Processor = .full,
        program: String? = nil, devices: [String]
    ) throws {
        let kernel = guest.map { guest in
            [
                "-kernel", "\(guest)/vmlinuz", "-initrd", "\(guest)/initramfs", "-append",
                "console=ttyS0 panic=-1 \(Guest.commandLine)\(processor.commandLine)",
            ]
        }
        monitorPath = folder["\(name).qmp"]
        let serial = folder["\(name).serial"]
        process = try Command.start(
            program ?? Means.qemu ?? "qemu-system-x86_64",
            [
                "-accel", "tcg", "-m", "256",
                "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
                "-machine", "q35,memory-backend=mem", "-nodefaults", "-display", "none",
                "-no-reboot", "-chardev", "socket,id=serial,path=\(serial),server=on,wait=off",
                "-serial", "chardev:serial", "-qmp", "unix:\(monitorPath),server=on,wait=off",
            ] + (kernel ?? []) + processor.arguments + devices)
        console = try GuestConsole(path: serial) { [process] in process.isRunning }
    }

    /// The arguments for a disk that a back end at `socket` serves.
    static func disk(_ socket: String, options: String = "", queues: Int = 2) -> [String] {
        [
            "-chardev", "socket,id=disk,path=\(socket)\(options)",
            "-device", "vhost-user-blk-pci,chardev=disk,num-queues=\(queues)",
        ]
    }

    /// Waits until the guest's shell is there.
    func awaitShell() throws {
        try console.wait(for: "apus-guest: ready")
        // The shell wraps what it echoes at the terminal's width.
        try console.type("stty cols 500")
    }

    /// Waits for QEMU to end, as it does when the guest powers off.
    func awaitEnd(seconds: UInt64 = 60) -> ChildStatus {
        process.wait(seconds: seconds)
    }

    /// Talks to the monitor.
    func monitor() throws -> QMP { try QMP(path: monitorPath) { process.isRunning } }

    /// Migrates the guest to the machine that listens on `channel`, and that says how it went.
    /// - Returns: what the monitor says of it in the end.
    func migrate(to channel: String) throws -> String {
        let monitor = try monitor()
        try monitor.execute(
            #"{"execute": "migrate-set-capabilities", "arguments": {"capabilities": "#
                + #"[{"capability": "return-path", "state": true}]}}"#)
        try monitor.execute(
            #"{"execute": "migrate", "arguments": {"uri": "unix:\#(channel)"}}"#)
        let deadline = Clock.monotonic() + 120_000_000_000
        while true {
            let state = try monitor.execute(#"{"execute": "query-migrate"}"#)
            if state.contains("\"completed\"") || state.contains("\"failed\"") { return state }
            guard Clock.monotonic() < deadline else {
                throw Command.Failure(description: "the migration does not end: \(state)")
            }
            usleep(50_000)
        }
    }
}

/// QEMU's monitor, as far as these tests need it: commands and answers are text.
final class QMP {
    private let socket: UnixSocket
    private var rest: [UInt8] = []

    init(path: String, while isRunning: () -> Bool) throws {
        socket = try connect(to: path, while: isRunning)
        _ = try line()
        try execute(#"{"execute": "qmp_capabilities"}"#)
    }

    /// Runs a command.
    /// - Returns: the line with its result.
    @discardableResult
    func execute(_ command: String) throws -> String {
        try socket.send(Array("\(command)\n".utf8))
        while true {
            let answer = try line()
            if answer.contains("\"error\"") { throw Command.Failure(description: answer) }
            if answer.contains("\"return\"") { return answer }
        }
    }

    private func line() throws -> String {
        while true {
            if let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: rest[..<end], as: UTF8.self)
                rest.removeSubrange(...end)
                return line
            }
            guard socket.waitReadable(timeoutMilliseconds: 30_000),
                let received = try socket.receive(upTo: 65536), !received.bytes.isEmpty
            else { throw Command.Failure(description: "QEMU's monitor does not answer") }
            rest += received.bytes
        }
    }
}
