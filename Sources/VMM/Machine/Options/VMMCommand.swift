package import Core
internal import TCG
package import VhostUser

/// The command line of the VMM: every flag and key is declared here once.
package struct VMMCommand: Sendable {
    /// In front of what the user gives. Linux would rather use EFI to reboot a machine without
    /// legacy hardware, so it is told to use ACPI. The panic notifier reports a panic before the
    /// reboot that `panic=-1` makes of it.
    package static let defaultCommandLine = "\(serialCommandLine) \(bareCommandLine)"
    static let serialCommandLine = "console=ttyS0"
    /// The last one is where the kernel's first program has its terminal.
    static let consoleCommandLine = "console=hvc0"
    static let bareCommandLine = "reboot=a panic=-1"

    // MARK: Boot

    static let kernel = Flag.one(
        "kernel", .path, help: "The guest's kernel: a bzImage or an ELF file (vmlinux, PVH)")
    static let initramfs = Flag.one(
        "initramfs", .path, help: "The kernel's first root file system (cpio, packed or not)")
    static let cmdline = Flag.one(
        "cmdline", .string, default: "",
        help: "The kernel's command line; follows the default one, \"\(defaultCommandLine)\""
            + ", which --console stdio adds \(consoleCommandLine) to")
    static let defaultCmdline = Flag.one(
        "default-cmdline", .bool, default: true, help: "Use the default command line as well")

    // MARK: Machine

    enum CPUs {
        static let boot = OptionKey(
            "boot", .integer(1...64), default: 1, help: "CPUs that the machine starts with")
        static let schema = OptionSchema("cpus", leadingKey: "boot", keys: [boot.any])
    }
    static let cpus = Flag.one("cpus", CPUs.schema, help: "Virtual CPUs")

    enum Processor {
        static let model = OptionKey(
            "model", .choice(CPUModel.Name.self), default: .level2,
            help: "x86-64-v2: the same everywhere; x86-64-v3: with AVX2, FMA and BMI; max: all that"
                + " works on this host")
        static let schema = OptionSchema("cpu", leadingKey: "model", keys: [model.any])
    }
    static let cpu = Flag.one(
        "cpu", Processor.schema, help: "What Apus's own CPU is; with KVM, guests see the host's")

    enum Memory {
        static let size = OptionKey(
            "size", .size, default: 512 << 20, help: "a multiple of 1M; at least 16M")
        static let hugePages = OptionKey(
            "hugepages", .bool, default: false, help: "use the host's huge pages")
        static let hugePageSize = OptionKey(
            "hugepage_size", .size, default: 2 << 20, help: "2M or 1G")
        static let prefault = OptionKey(
            "prefault", .bool, default: false, help: "allocate all memory at the start")
        enum Policy: String, CaseIterable { case bind, preferred, interleave }
        static let nodes = OptionKey(
            "host_nodes", .list(of: .integer(0...UInt64(UInt32.max))), default: [],
            help: "the host's NUMA nodes to take it from")
        static let policy = OptionKey(
            "policy", .choice(Policy.self), default: .bind, help: "how the nodes are used")
        static let schema = OptionSchema(
            "memory", leadingKey: "size",
            keys: [
                size.any, hugePages.any, hugePageSize.any, prefault.any, nodes.any, policy.any,
            ])
    }
    static let memory = Flag.one("memory", Memory.schema, help: "The guest's memory")

    // MARK: Devices

    enum SerialPort {
        enum Mode: String, CaseIterable { case tty, null, off }
        static let mode = OptionKey<Mode?>(
            "mode", .choice(Mode.self),
            help: "tty: standard input and output; null: nowhere; off: no serial port")
        static let file = OptionKey<String?>("file", .path, help: "write the output to a file")
        static let schema = OptionSchema("serial", leadingKey: "mode", keys: [mode.any, file.any])
    }
    static let serial = Flag.one(
        "serial", SerialPort.schema, help: "The serial port, ttyS0 in the guest (default tty)")

    // MARK: Ends

    static let onReboot = Flag.one(
        "on-reboot", .choice(EndPolicy.self), default: .restart, help: "When the guest reboots")
    static let onShutdown = Flag.one(
        "on-shutdown", .choice(EndPolicy.self), default: .exit, help: "When it powers off")
    static let onPanic = Flag.one(
        "on-panic", .choice(EndPolicy.self), default: .exit, help: "When it reports a panic")
    static let onTripleFault = Flag.one(
        "on-triple-fault", .choice(EndPolicy.self), default: .exit,
        help: "When its CPU stops with a triple fault")

    enum DebugExitPort {
        static let port = OptionKey(
            "port", .integer(0...0xfffc), default: 0xf4, help: "The first of four I/O ports")
        static let schema = OptionSchema(
            "debug-exit", leadingKey: "port", mayBeEmpty: true, keys: [port.any])
    }
    static let debugExit = Flag.one(
        "debug-exit", DebugExitPort.schema,
        help: "A port by which the guest ends the machine, for tests: V makes the exit code 2V+1")

    static let testDevice = Flag.present(
        "test-device",
        help: "Ports, wires and memory for tests of processors, as QEMU's pc-testdev has them")

    // MARK: Program

    static let bootTiming = Flag.present(
        "boot-timing", help: "Print when the stages of the start were reached")
    static let logLevel = Flag.one(
        "log-level", .choice(Log.Level.self), default: .warning,
        help: "The least important messages that are shown")
    static let version = Flag.present("version", help: "Print the version")
    static let help = Flag.present("help", help: "Print this help")

    // MARK: The whole

    let backends: [(kind: BackendKind, flag: Flag<[OptionValues]>)]
    package let schema: CommandSchema

    /// - Parameter backends: the kinds of device that we can serve.
    package init(backends: [BackendKind]) {
        self.backends = backends.map { kind in
            let flag = Flag.many(
                kind.schema.name, kind.schema.extended(with: [Self.socket.any] + Slot.keys),
                help: "A \(kind.noun), served by a process of its own")
            return (kind, flag)
        }
        let devices =
            self.backends.map(\.flag.any) + [
                Self.foreign.any, Self.serial.any, Self.testDevice.any,
            ]
        schema = CommandSchema(
            "apus", summary: "Apus \(Release.version) runs a virtual machine.",
            groups: [
                .init(
                    "Boot",
                    [
                        Self.kernel.any, Self.initramfs.any, Self.cmdline.any,
                        Self.defaultCmdline.any,
                    ]),
                .init("Machine", [Self.cpus.any, Self.cpu.any, Self.memory.any, Self.accel.any]),
                .init("Devices", devices),
                .init(
                    "Ends",
                    [
                        Self.onReboot.any, Self.onShutdown.any, Self.onPanic.any,
                        Self.onTripleFault.any, Self.debugExit.any,
                    ]),
                .init("Control", [Self.name.any, Self.qmp.any]),
                .init("Sandbox", SandboxOptions.flags),
                .init(
                    "Program",
                    [Self.bootTiming.any, Self.logLevel.any, Self.version.any, Self.help.any]),
            ],
            programs: backends.map(\.name) + ["attach", "switch"],
            chapters: [
                ("Values", Self.grammar), ("Types of --vhost-user", DeviceType.list),
                ("Example", Self.example),
                ("Keys", Self.keys), ("Exit codes", Self.exitCodes),
                ("Other programs", Self.others(backends)),
            ])
    }

    private static let grammar = """
          A key's name in brackets, [path=], may be left out. SIZE takes K, M, G or T (powers of
          1024). Lists are [a,b]. A value with commas or brackets is quoted: path="a,b"; a quote
          inside quotes is doubled.
        """
    private static let example = """
          apus --kernel vmlinuz --initramfs initrd.img --cmdline "root=/dev/vda ro" \\
               --memory size=512M --disk path=root.img
        """
    private static let keys = """
          Ctrl-A x ends the machine, Ctrl-A h shows help, Ctrl-A a sends Ctrl-A. SIGUSR2 replaces the
          back ends of a machine that runs.
        """
    private static var exitCodes: String {
        Outcome.allCases.map { outcome in
            let note = outcome.note.map { ", \($0)" } ?? ""
            return "  \(outcome.rawValue)  \(outcome.meaning)\(note)"
        }.joined(separator: "\n")
    }
}
