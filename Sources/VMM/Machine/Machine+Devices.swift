internal import Core
internal import Devices
internal import VhostUser

// The machine's devices that backends serve, and the threads that they live on.
extension Machine {
    /// How long devices have to come to rest when the machine ends, with what backends have begun.
    private static let patienceMilliseconds: UInt32 = 3000

    /// Connects the devices to the bus, and to the processes that serve them.
    func addDevices() throws(BootError) {
        for (index, device) in options.devices.enumerated() {
            do {
                if device.slot != nil {
                    try addSlot(device, index)
                } else {
                    let attached = try attach(index, control: makeControl(device))
                    devices.append(attached)
                    try pci.add(attached.function)
                }
            } catch let error as BootError {
                throw error
            } catch {
                throw BootError("the \(device.title) cannot be added: \(error)")
            }
        }
    }

    /// What a device lives on: in lockstep the machine's own thread, else one of its own that does
    /// not run yet.
    func makeControl(_ device: DeviceOptions) throws(SystemError) -> ControlThread {
        let isCounted = options.accelerator.isCounted
        if isCounted, !device.isInOrder {
            Self.log(
                .warning, "the \(device.title) answers when it likes, so runs do not repeat")
        }
        return isCounted && device.isInOrder ? control : ControlThread(try EventLoop())
    }

    /// Connects a device to who serves it. Called on the device's control thread, or before it runs.
    /// - Parameter index: in the options.
    func attach(_ index: Int, control: ControlThread) throws -> AttachedDevice {
        let device = options.devices[index]
        let frontend: Frontend
        var process: BackendProcess?
        switch device.source {
        case .child:
            guard let launcher = given.launcher else { throw BootError("there is no launcher") }
            let new = BackendProcess(
                device, launcher: launcher, role: options.devices[..<index].count { $0.isOurs },
                loop: control.loop)
            try new.start()
            (frontend, process) = (new.frontend, new)
        case .socket(let path, let configured):
            frontend = try connect(device, path, configured, control.loop)
        }
        return try AttachedDevice(
            .init(index: index, title: device.title, frontend: frontend, process: process),
            control: control,
            pace: control === self.control ? .lockstep : .free, isExpress: device.slot != nil,
            memory: memory, machine: virtualMachine)
    }

    private func connect(
        _ device: DeviceOptions, _ path: String, _ configured: DeviceOptions.Child?,
        _ loop: EventLoop
    ) throws(BootError) -> Frontend {
        var settings = FrontendOptions(
            .connect(path: given.sockets[path] ?? path), deviceID: device.id)
        settings.backendName = "the back end of \(device.title)"
        settings.sharesMemory = device.slot == nil
        if let configured, let config = configured.kind.config {
            let values = configured.values
            settings.ownConfig = { config.make(values, $0) }
        }
        let frontend = Frontend(settings, on: loop)
        do {
            try frontend.connect()
        } catch {
            throw BootError("the \(device.title) cannot be used: \(error)")
        }
        if device.id == .fs, frontend.readConfig(offset: 0, count: 1).isEmpty {
            throw BootError(
                "the \(device.title) cannot be used: its back end does not say by which name guests"
                    + " mount it; do so with --fs socket=\(path),tag=NAME")
        }
        return frontend
    }

    /// Starts the devices' threads.
    func startDevices() throws(BootError) {
        do {
            let filter = try makeDeviceFilter()
            for (index, device) in devices.enumerated() where device.control !== control {
                try device.control.launch(name: "device\(index)", filter: filter)
            }
        } catch {
            throw BootError("a device's thread cannot be made: \(error)")
        }
    }

    /// What a device's thread restricts itself with.
    func makeDeviceFilter() throws -> SeccompFilter? {
        try SeccompFilter(VMMSystemCalls.device, options.sandbox.seccomp)
    }

    /// Whether the devices that the guest waits for are done. Ask until they are.
    func settleDevices() -> Bool {
        var isSettled = true
        for device in devices where device.control === control && !device.function.settle() {
            isSettled = false
        }
        return isSettled
    }

    // MARK: Rest

    /// Resets everything but the CPUs and the memory, and then calls `completion` on the machine's
    /// control thread, which meanwhile serves others. No CPU runs.
    func resetDevices(then completion: @escaping @Sendable () -> Void) {
        resetEach { [self] in
            finishUnplugging()
            pci.reset()
            configPorts.reset()
            serial?.reset()
            testDevice?.reset()
            console.reset()
            ioapic.reset()
            completion()
        }
    }

    private func resetEach(then completion: @escaping @Sendable () -> Void) {
        resetsUnderWay = devices.count
        if devices.isEmpty { return completion() }
        // All at once: the times of those that do not answer must not add up.
        for device in devices {
            device.reset { [self] in
                control.loop.post {
                    self.resetsUnderWay -= 1
                    if self.resetsUnderWay == 0 { completion() }
                }
            }
        }
    }

    /// Gives up backends that keep their device's thread busy for all of the patience from now on.
    /// - Returns: what keeps this going.
    func abandonSilentDevices() -> EventRegistration {
        for device in devices { device.ask() }
        return control.loop.after(milliseconds: Self.patienceMilliseconds) { [weak self] in
            for device in self?.devices ?? [] where !device.hasAnswered { device.abandon() }
        }
    }

    /// Lets the devices finish what they are doing, and ends the processes and threads behind them.
    /// No CPU runs.
    func stopDevices() {
        let waits = devices.map { device in
            let isDone = Semaphore()
            device.stop(then: isDone.signal)
            return isDone
        }
        let start = Clock.monotonic()
        for (device, isDone) in zip(devices, waits) {
            let passed = UInt32(clamping: (Clock.monotonic() &- start) / 1_000_000)
            let left = Self.patienceMilliseconds - min(passed, Self.patienceMilliseconds)
            if !isDone.wait(milliseconds: left) {
                device.abandon()
                isDone.wait()
            }
            if device.control !== control { device.control.end() }
        }
    }
}
