package import Core
internal import TCG
package import VhostUser

/// The command line of the VMM: every flag and key is declared here once.
package struct VMMCommand: Sendable {
    /// In front of what the user gives. Linux would rather use EFI to reboot a machine without
    /// legacy hardware, so it is told to use ACPI. The panic notifier reports a panic before the
    /// reboot that `panic=-1` makes of it.
    package static let defaultCommandLine = "\(serialCommandLine) \(bareCommandLine)"
    private static let serialCommandLine = "console=ttyS0"
    /// The last one is where the kernel's first program has its terminal.
    private static let consoleCommandLine = "console=hvc0"
    private static let bareCommandLine = "reboot=a panic=-1"

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
    /// What the command line asks for.
    package enum Request: Sendable {
        case help
        case version
        case run(MachineOptions)

        var isRun: Bool {
            if case .run = self { true } else { false }
        }
    }

    /// Reads the arguments that follow the program's name.
    package func parse(
        _ arguments: [String]
    ) throws(OptionError) -> (request: Request, level: Log.Level) {
        let values = try schema.parse(arguments)
        let level = values[Self.logLevel]
        if values[Self.help] { return (.help, level) }
        if values[Self.version] { return (.version, level) }
        return (.run(try machineOptions(values)), level)
    }

    private func machineOptions(_ values: CommandValues) throws(OptionError) -> MachineOptions {
        guard let kernel = values[Self.kernel] else {
            throw OptionError("--kernel is missing; --help shows how to start")
        }
        let serial = try Self.serialBackend(values[Self.serial])
        let cpuCount = Int(values[Self.cpus].map { $0[CPUs.boot] } ?? 1)
        let accelerator = try Self.acceleratorOptions(
            values[Self.accel], values[Self.cpu], cpuCount)
        let devices = try deviceOptions(values, isCounted: accelerator.isCounted)
        let base = [
            serial == .off ? "" : Self.serialCommandLine,
            devices.contains { $0.usesTerminal } ? Self.consoleCommandLine : "",
            Self.bareCommandLine,
        ]
        let line = ((values[Self.defaultCmdline] ? base : []) + [values[Self.cmdline]])
            .filter { !$0.isEmpty }.joined(separator: " ")
        return MachineOptions(
            boot: BootSource(
                kernel: kernel, initramfs: values[Self.initramfs], commandLine: line),
            cpuCount: cpuCount,
            memory: try Self.memoryOptions(values[Self.memory]),
            accelerator: accelerator,
            serial: serial,
            devices: devices,
            policies: EndPolicies(
                reboot: values[Self.onReboot], shutdown: values[Self.onShutdown],
                panic: values[Self.onPanic], tripleFault: values[Self.onTripleFault]),
            debugExitPort: values[Self.debugExit].map {
                UInt16(truncatingIfNeeded: $0[DebugExitPort.port])
            },
            hasTestDevice: values[Self.testDevice],
            name: values[Self.name],
            monitors: values[Self.qmp].map { $0[QMP.listen] },
            showsBootTiming: values[Self.bootTiming],
            sandbox: try Self.sandboxOptions(values))
    }

    private static func sandboxOptions(
        _ values: CommandValues
    ) throws(OptionError) -> SandboxOptions {
        let options = SandboxOptions(values)
        guard options.isolation != .chroot else {
            throw OptionError(
                "--sandbox: chroot is for back ends on their own; a machine has namespaces (on)")
        }
        return options
    }

    private static func memoryOptions(
        _ values: OptionValues?
    ) throws(OptionError) -> MemoryOptions {
        guard let values else { return MemoryOptions() }
        let size = values[Memory.size]
        guard MemoryMap.sizes.contains(size), size % (1 << 20) == 0 else {
            throw OptionError("--memory: size is a multiple of 1M, at least 16M and at most 8T")
        }
        var options = MemoryOptions(size: size)
        options.backing.pageSize = try pageSize(values, size)
        options.backing.prefault = values[Memory.prefault]
        let nodes = values[Memory.nodes].map { UInt32(truncatingIfNeeded: $0) }
        if !nodes.isEmpty {
            let policy: GuestMemoryPlacement.Policy =
                switch values[Memory.policy] {
                case .bind: .bind
                case .preferred: .preferred
                case .interleave: .interleave
                }
            options.backing.placement = GuestMemoryPlacement(policy: policy, nodes: nodes)
        } else if values.isGiven(Memory.policy) {
            throw OptionError("--memory: policy needs host_nodes")
        }
        return options
    }

    private static func pageSize(
        _ values: OptionValues, _ size: UInt64
    ) throws(OptionError) -> GuestPageSize {
        guard values[Memory.hugePages] else {
            guard !values.isGiven(Memory.hugePageSize) else {
                throw OptionError("--memory: hugepage_size needs hugepages=on")
            }
            return .normal
        }
        let page = values[Memory.hugePageSize]
        guard page == 2 << 20 || page == 1 << 30 else {
            throw OptionError("--memory: hugepage_size is 2M or 1G")
        }
        guard size % page == 0 else {
            throw OptionError("--memory: size is a multiple of the huge pages' size")
        }
        return page == 1 << 30 ? .huge1G : .huge2M
    }

    private static func serialBackend(
        _ values: OptionValues?
    ) throws(OptionError) -> SerialBackend {
        guard let values else { return .terminal }
        switch (values[SerialPort.mode], values[SerialPort.file]) {
        case (nil, let path?): return .file(path)
        case (.tty, nil): return .terminal
        case (.null, nil): return .null
        case (.off, nil): return .off
        case (nil, nil), (_?, _?):
            throw OptionError("--serial: one of tty, null, off and file=PATH is needed")
        }
    }
}
