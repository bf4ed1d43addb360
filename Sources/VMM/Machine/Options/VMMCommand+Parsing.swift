package import Core

// From arguments to a machine.

extension VMMCommand {
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
