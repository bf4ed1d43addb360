internal import Accelerator
internal import Core
internal import Devices
internal import Glibc
internal import Monitor

/// The machine `microvm`: its memory, buses, devices and CPUs, put together from its options.
///
/// It belongs to the machine's control thread, the process's first, on which it is made and run;
/// vCPU threads reach it through the buses and by posting to the loop. Devices have control threads
/// of their own (Machine+Devices.swift).
// SAFETY: everything mutable is used on the control thread only.
final class Machine: @unchecked Sendable {
    static let log = Log("machine")

    private enum Port {
        static let serial: UInt64 = 0x3f8
        static let postCode: UInt64 = 0x80
        static let sleep: UInt64 = 0x600
        static let panic: UInt64 = 0x505
        static let pciConfig: UInt64 = 0xcf8
    }
    private static let serialPin = 4

    let options: MachineOptions
    let given: Given
    let timeline: BootTimeline
    let control: ControlThread
    let map: MemoryMap
    let memory: GuestMemory
    let virtualMachine: any VirtualMachine
    let ioapic: IOAPIC
    let pci: PCIBus
    let configPorts: PCIConfigPorts
    let serial: Serial?
    /// `nil` if the guest has no port to end the machine with a status.
    let debugExit: DebugExit?
    /// `nil` if there is none.
    let testDevice: TestDevice?
    let console: HostConsole
    let buses = MachineBuses()
    private let acpi: ACPITables
    /// Set when the machine is complete.
    var cpus: [VCPUThread] = []
    var devices: [AttachedDevice] = []
    var slots: [DeviceSlot] = []
    /// Devices whose reset nobody has reported yet.
    var resetsUnderWay = 0
    var run: RunState
    /// Tells the monitors' clients of events; `nil` if there are no monitors.
    var monitor: QMPServer?
    /// `--boot-timing` has been answered.
    var hasReportedTiming = false

    /// - Parameter loop: of the calling thread.
    init(
        _ options: MachineOptions, _ given: Given, loop: EventLoop, timeline: BootTimeline,
        run: RunState
    ) throws(BootError) {
        self.options = options
        self.given = given
        self.timeline = timeline
        self.run = run
        control = ControlThread(loop)
        map = MemoryMap(memorySize: options.memory.size)
        memory = try Self.makeMemory(options.memory, map)
        timeline.mark(.memoryReady)
        virtualMachine = try AcceleratorChoice(
            options: options.accelerator, cpuCount: options.cpuCount, memory: memory,
            surface: buses
        ).makeVirtualMachine()
        ioapic = IOAPIC(machine: virtualMachine)
        buses.connect(ioapic)
        pci = PCIBus(
            memory: buses.memory,
            windows: [PCIWindow(map.pci64), PCIWindow(MemoryMap.pci32)])
        configPorts = PCIConfigPorts(pci)
        console = try HostConsole(
            options.serial, guestTerminal: given.terminal, loop: loop, timeline: timeline
        ) { event in
            run.consoleEvent(event)
        }
        serial =
            options.serial == .off
            ? nil
            : Serial(
                line: InterruptLine(ioapic, pin: Self.serialPin),
                events: .init(outputReady: console.outputReady, inputReady: console.inputReady))
        debugExit = options.debugExitPort.map { _ in DebugExit() }
        testDevice = options.hasTestDevice ? TestDevice(ioapic) : nil
        acpi = ACPITables(Self.acpiConfiguration(options, map), address: MemoryMap.acpi.start)
        try connectBuses()
    }

    private static func makeMemory(
        _ options: MemoryOptions, _ map: MemoryMap
    ) throws(BootError) -> GuestMemory {
        let windows = [map.lowRAM, map.highRAM].compactMap { range in
            range.map { GuestMemoryWindow(start: $0.address, size: $0.size) }
        }
        let host = UInt64(clamping: sysconf(Int32(_SC_PHYS_PAGES)))
            .multipliedReportingOverflow(by: UInt64(clamping: sysconf(Int32(_SC_PAGESIZE))))
            .partialValue
        guard !options.backing.prefault || options.size <= host else {
            throw BootError(
                "the host's \(host >> 20) MiB of memory are not enough to allocate the guest's "
                    + "\(options.size >> 20) MiB at the start; leave out prefault=on")
        }
        if options.size > host {
            log(
                .warning,
                "the guest's \(options.size >> 20) MiB of memory are more than the host's "
                    + "\(host >> 20) MiB, which run out if the guest uses them; lower --memory")
        }
        do {
            return try GuestMemoryBacking(windows, options: options.backing).memory
        } catch {
            throw BootError("\(error)")
        }
    }

    private static func acpiConfiguration(
        _ options: MachineOptions, _ map: MemoryMap
    ) -> ACPIConfiguration {
        var configuration = ACPIConfiguration(cpuCount: options.cpuCount)
        configuration.ecamAddress = MemoryMap.ecam.start
        configuration.pciWindow32 = PCIWindow(MemoryMap.pci32)
        configuration.pciWindow64 = PCIWindow(map.pci64)
        configuration.hasHotPlug = options.devices.contains { $0.slot != nil }
        configuration.sleepPort = UInt16(Port.sleep)
        configuration.panicPort = UInt16(Port.panic)
        if options.serial == .off { configuration.serial = nil }
        return configuration
    }

    private func connectBuses() throws(BootError) {
        let places: [(any BusDevice, Bus, start: UInt64, length: UInt64)] = [
            (ioapic, buses.memory, MemoryMap.ioapic.start, IOAPIC.size),
            (PCIECAM(pci), buses.memory, MemoryMap.ecam.start, MemoryMap.ecam.size),
            (configPorts, buses.ports, Port.pciConfig, PCIConfigPorts.size),
            (SleepRegisters(), buses.ports, Port.sleep, SleepRegisters.size),
            (PanicNotifier(), buses.ports, Port.panic, PanicNotifier.size),
            (PortSink(), buses.ports, Port.postCode, 1),
        ]
        for (device, bus, start, length) in places {
            guard bus.attach(device, start: start, length: length) != nil else {
                throw BootError("two devices of the machine share the address \(start)")
            }
        }
        if let serial {
            _ = buses.ports.attach(serial, start: Port.serial, length: Serial.size)
        }
        if let testDevice {
            typealias Place = TestDevice
            _ = buses.ports.attach(
                testDevice.register, start: Place.Register.port, length: Place.Register.size)
            _ = buses.ports.attach(
                testDevice.wires, start: Place.Wires.port, length: Place.Wires.size)
            _ = buses.memory.attach(
                testDevice.memory, start: Place.Memory.address, length: Place.Memory.size)
        }
        if let debugExit, let port = options.debugExitPort {
            guard
                buses.ports.attach(debugExit, start: UInt64(port), length: DebugExit.size) != nil
            else {
                throw BootError(
                    "--debug-exit: port \(port) belongs to another device; QEMU has it at 244")
            }
        }
        do {
            // First, so that it is 00:00.0: Linux looks for it there before it trusts port 0xCF8.
            try pci.add(PCIHostBridge())
        } catch {
            throw BootError("the host bridge cannot be added: \(error)")
        }
    }

    /// Makes the CPUs, whose threads wait for their first order.
    func makeCPUs() throws(BootError) {
        do {
            let filter = try SeccompFilter(VMMSystemCalls.cpu, options.sandbox.seccomp)
            for index in 0..<options.cpuCount {
                let cpu = VCPUThread(
                    index: index, cpu: try virtualMachine.makeVCPU(index: index), filter: filter,
                    willRun: { [timeline] in timeline.mark(.firstInstruction) },
                    report: { [control, run] index, exit in
                        control.loop.post { run.stopped(index, exit) }
                    })
                try cpu.launch()
                cpus.append(cpu)
            }
        } catch {
            throw BootError("the CPUs cannot be made: \(error)")
        }
    }

    /// Puts the kernel and the tables into memory.
    /// - Returns: what the first CPU starts with.
    func load() throws(BootError) -> InitialCPUState {
        let loader = BootLoader(memory: memory, map: map, rsdp: acpi.rootPointer)
        let result = try loader.load(given.boot)
        do {
            try memory.write(GuestAddress(acpi.address), acpi.bytes)
            try memory.write(GuestAddress(ResetVector.address), ResetVector.code)
        } catch {
            throw BootError("the ACPI tables do not fit: \(error)")
        }
        virtualMachine.memoryChangedOutside()
        Self.log(.info, "the kernel is loaded (\(result.format))")
        timeline.mark(.kernelLoaded)
        return result.state
    }
}

extension PCIWindow {
    fileprivate init(_ range: MemoryMap.Range) {
        self.init(start: range.start, size: range.size)
    }
}

/// What is at the place where a PC's firmware starts: guests without a better idea jump there to
/// reboot.
private enum ResetVector {
    static let address: UInt64 = 0xffff0
    /// Real mode: mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp to the hlt.
    static let code: [UInt8] = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd]
}
