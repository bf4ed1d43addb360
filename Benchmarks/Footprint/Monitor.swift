import BenchmarkSupport
import Core
import Foundation

/// A program that runs virtual machines, and how its disks are served.
enum Monitor: String, CaseIterable, Sendable {
    case apus
    case qemu
    /// QEMU with the disks of `apus`: by processes that speak vhost-user.
    case qemuVhostUser = "qemu-vhost-user"

    var title: String {
        switch self {
        case .apus: "apus"
        case .qemu: "QEMU"
        case .qemuVhostUser: "QEMU + apus-block"
        }
    }

    /// The program and its arguments.
    func command(_ machine: MachineDescription, _ programs: Programs) -> (String, [String]) {
        self == .apus
            ? (programs.apus, apusArguments(machine))
            : (programs.qemu, qemuArguments(machine, programs))
    }

    private func apusArguments(_ machine: MachineDescription) -> [String] {
        var arguments = [
            "--accel", "tcg", "--memory", "\(machine.megabytes)M", "--kernel", machine.kernel,
            "--default-cmdline", "off", "--cmdline", machine.commandLine, "--log-level", "error",
        ]
        if let initramfs = machine.initramfs { arguments += ["--initramfs", initramfs] }
        return arguments + machine.disks.flatMap { ["--disk", "path=\($0)"] }
    }

    private func qemuArguments(_ machine: MachineDescription, _ programs: Programs) -> [String] {
        var arguments = [
            "-no-user-config", "-nodefaults", "-display", "none", "-serial", "stdio",
            "-no-reboot", "-accel", "tcg", "-cpu", "qemu64,+arat", "-smp", "1",
            "-m", "\(machine.megabytes)M", "-kernel", machine.kernel,
            // Linux has no clock in this machine but the TSC, and nothing tells its frequency.
            "-append", "\(machine.commandLine) tsc_early_khz=\(programs.tscKilohertz) tsc=reliable",
            "-object", "memory-backend-memfd,id=memory,size=\(machine.megabytes)M,share=on",
            "-machine",
            "microvm,pcie=on,acpi=on,pit=off,pic=off,rtc=off,x-option-roms=off,"
                + "memory-backend=memory",
        ]
        if let initramfs = machine.initramfs { arguments += ["-initrd", initramfs] }
        for (index, disk) in machine.disks.enumerated() {
            arguments +=
                self == .qemu
                ? [
                    "-drive", "if=none,id=d\(index),format=raw,file=\(disk)",
                    "-device", "virtio-blk-pci,drive=d\(index)",
                ]
                : [
                    "-chardev", "socket,id=d\(index),path=\(MachineDescription.socket(disk))",
                    "-device", "vhost-user-blk-pci,chardev=d\(index),num-queues=1",
                ]
        }
        return arguments
    }
}

/// A virtual machine with one CPU, a serial port on standard input and output, and disks.
struct MachineDescription {
    var kernel: String
    var initramfs: String?
    var commandLine = ""
    var megabytes = 128
    /// Images.
    var disks: [String]

    /// The socket at which a disk is served to QEMU.
    static func socket(_ disk: String) -> String { "\(disk).sock" }
}

/// The executables to compare, and what the host is like.
struct Programs {
    var apus: String
    var qemu: String
    /// The frequency of the host's TSC, which QEMU's guests see.
    let tscKilohertz: Int

    init(apus: String, qemu: String) throws {
        for path in [apus, qemu] where !FileManager.default.isExecutableFile(atPath: path) {
            throw OptionError("there is no executable '\(path)'")
        }
        self.apus = apus
        self.qemu = qemu
        let text = try String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)
        let line = text.split(separator: "\n").first { $0.hasPrefix("cpu MHz") }
        guard let megahertz = line?.split(separator: " ").last.flatMap({ Double($0) }) else {
            throw OptionError("/proc/cpuinfo does not tell the CPU's frequency")
        }
        tscKilohertz = Int(megahertz * 1000)
    }
}
