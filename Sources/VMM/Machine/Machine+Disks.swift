internal import Core
internal import Devices
internal import VhostUser

// The machine's disks and the threads that they live on.
extension Machine {
    /// How long disks have to come to rest when the machine ends, with what backends have begun.
    private static let patienceMilliseconds: UInt32 = 3000

    /// Connects the disks to the bus, and to the processes that serve them.
    func addDisks() throws(BootError) {
        for disk in options.disks {
            do {
                let attached = try attach(disk)
                disks.append(attached)
                try pci.add(attached.function)
            } catch let error as BootError {
                throw error
            } catch {
                throw BootError("a disk cannot be added: \(error)")
            }
        }
    }

    private func attach(_ disk: DiskOptions) throws -> AttachedDisk {
        let isCounted = options.accelerator.isCounted
        switch disk {
        case .child(let name, _, let queueSize):
            guard let launcher = given.launcher else { throw BootError("there is no launcher") }
            // In lockstep, the machine's own thread serves the disk.
            let control = isCounted ? control : ControlThread(try EventLoop())
            let process = DiskProcess(
                name: name, launcher: launcher, program: disks.count { $0.isOurs },
                queueSize: queueSize, loop: control.loop)
            try process.start()
            return try AttachedDisk(
                .init(name: name, frontend: process.frontend, process: process), control: control,
                pace: isCounted ? .lockstep : .free, memory: memory, machine: virtualMachine)
        case .socket(let path):
            let control = ControlThread(try EventLoop())
            let frontend = try connect(path, control.loop)
            if isCounted {
                Self.log(
                    .warning,
                    "the disk at socket '\(path)' answers when it likes, so runs do not repeat")
            }
            return try AttachedDisk(
                .init(name: path, frontend: frontend, process: nil), control: control, pace: .free,
                memory: memory, machine: virtualMachine)
        }
    }

    private func connect(_ path: String, _ loop: EventLoop) throws(BootError) -> Frontend {
        let frontend = Frontend(
            FrontendOptions(.connect(path: given.sockets[path] ?? path), deviceID: .block),
            on: loop)
        do {
            try frontend.connect()
        } catch {
            throw BootError("the disk at socket '\(path)' cannot be used: \(error)")
        }
        return frontend
    }

    /// Starts the disks' threads.
    func startDisks() throws(BootError) {
        do {
            let filter = try SeccompFilter(VMMSystemCalls.disk, options.sandbox.seccomp)
            for (index, disk) in disks.enumerated() where disk.control !== control {
                try disk.control.launch(name: "disk\(index)", filter: filter)
            }
        } catch {
            throw BootError("a disk's thread cannot be made: \(error)")
        }
    }

    /// Whether the disks that the guest waits for are done. Ask until they are.
    func settleDevices() -> Bool {
        var isSettled = true
        for disk in disks where disk.control === control && !disk.function.settle() {
            isSettled = false
        }
        return isSettled
    }

    // MARK: Rest

    /// Resets everything but the CPUs and the memory, and then calls `completion` on the machine's
    /// control thread, which meanwhile serves others. No CPU runs.
    func resetDevices(then completion: @escaping @Sendable () -> Void) {
        resetDisks(from: 0) { [self] in
            pci.reset()
            configPorts.reset()
            serial?.reset()
            ioapic.reset()
            completion()
        }
    }

    private func resetDisks(from index: Int, then completion: @escaping @Sendable () -> Void) {
        guard disks.indices.contains(index) else { return completion() }
        disks[index].reset { [self] in
            control.loop.post { self.resetDisks(from: index + 1, then: completion) }
        }
    }

    /// Gives up backends that keep their disk's thread busy for all of the patience from now on.
    /// - Returns: what keeps this going.
    func abandonSilentDisks() -> EventRegistration {
        for disk in disks { disk.ask() }
        return control.loop.after(milliseconds: Self.patienceMilliseconds) { [weak self] in
            for disk in self?.disks ?? [] where !disk.hasAnswered { disk.abandon() }
        }
    }

    /// Lets the disks finish what they are doing, and ends the processes and threads behind them.
    /// No CPU runs.
    func stopDisks() {
        let waits = disks.map { disk in
            let isDone = Semaphore()
            disk.stop(then: isDone.signal)
            return isDone
        }
        let start = Clock.monotonic()
        for (disk, isDone) in zip(disks, waits) {
            let passed = UInt32(clamping: (Clock.monotonic() &- start) / 1_000_000)
            let left = Self.patienceMilliseconds - min(passed, Self.patienceMilliseconds)
            if !isDone.wait(milliseconds: left) {
                disk.abandon()
                isDone.wait()
            }
            if disk.control !== control { disk.control.end() }
        }
    }
}
