import Core
import Foundation

/// What all measurements share: the programs, the guest and two disks in a folder of their own,
/// which is removed at the end.
final class Setup {
    let programs: Programs
    let monitors: [Monitor]
    /// Machines with Linux: the same kernel, initramfs, memory and command line for all.
    let kernel: String
    let initramfs: String
    let megabytes: Int
    let folder: String
    private let isCold: Bool

    init(
        programs: Programs, monitors: [Monitor], guest: String, kernel: String?, megabytes: Int,
        isCold: Bool
    ) throws {
        self.programs = programs
        self.monitors = monitors
        self.kernel = kernel ?? "\(guest)/vmlinuz"
        initramfs = "\(guest)/initramfs"
        self.megabytes = megabytes
        self.isCold = isCold
        for path in [self.kernel, initramfs] where !FileManager.default.fileExists(atPath: path) {
            throw OptionError("there is no '\(path)'; examples/quickstart --check makes the guest")
        }
        folder = NSTemporaryDirectory() + "/apus-footprint-\(getpid())"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    /// Two empty disks for the machine of this number.
    func disks(_ machine: Int = 0) throws -> [String] {
        try (0..<2).map { index in
            let path = "\(folder)/disk-\(machine)-\(index).img"
            guard !FileManager.default.fileExists(atPath: path) else { return path }
            _ = FileManager.default.createFile(atPath: path, contents: nil)
            let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
            try handle.truncate(atOffset: 64 << 20)
            try handle.close()
            return path
        }
    }

    /// - Parameter settle: whether the kernel is given time to take down what the machine before
    ///   had, namespaces for example.
    func start(
        _ monitor: Monitor, _ machine: MachineDescription, settle: Bool = true
    ) throws -> RunningMachine {
        if settle { usleep(50_000) }
        if isCold { try Self.dropCaches() }
        return try RunningMachine(monitor, machine, programs)
    }

    /// Starts Linux, which ends with a shell in the initramfs, or at once with `apus.poweroff`.
    func startLinux(
        _ monitor: Monitor, _ words: String = "", number: Int = 0, settle: Bool = true
    ) throws -> RunningMachine {
        try start(
            monitor,
            MachineDescription(
                kernel: kernel, initramfs: initramfs,
                commandLine: "console=ttyS0 earlyprintk=ttyS0 reboot=t panic=-1 \(words)",
                megabytes: megabytes, disks: disks(number)), settle: settle)
    }

    private static func dropCaches() throws {
        sync()
        do {
            try "3\n".write(
                toFile: "/proc/sys/vm/drop_caches", atomically: false, encoding: .utf8)
        } catch {
            throw OptionError("--cold: the host's caches cannot be dropped: \(error)")
        }
    }
}
