internal import Accelerator
internal import Core
internal import Synchronization

// What the driver's writes ask of the device. All but `writeCommon` and `vectorsChanged` run on
// the control thread.
extension VirtioPCI {
    /// A write to the common configuration, on a vCPU thread.
    func writeCommon(_ offset: UInt64, size: Int, _ value: UInt64) {
        let action = registers.withLock { $0.write(offset: offset, size: size, value) }
        switch action {
        case .none: break
        case .setStatus(let status): control.perform { [self] in setStatus(status) }
        case .enableQueue(let queue): control.perform { [self] in enableQueue(queue) }
        case .resetQueue(let queue): control.perform { [self] in resetQueue(queue) }
        case .routeInterrupts: vectorsChanged()
        }
    }

    // MARK: Status

    /// The driver has written `device_status` (VIRTIO 1.3, sections 2.1 and 3.1).
    func setStatus(_ value: UInt8) {
        guard value != 0 else {
            resetDevice()
            return
        }
        let old = registers.withLock { $0.status }
        // A driver sets bits and does not clear them; DEVICE_NEEDS_RESET is not its own.
        var status = old | (value & ~VirtioStatus.needsReset)
        let added = status & ~old
        if added & VirtioStatus.featuresOK != 0, !acceptFeatures() {
            status &= ~VirtioStatus.featuresOK
        }
        if status & VirtioStatus.featuresOK == 0 { status &= ~VirtioStatus.driverOK }
        registers.withLock { $0.status = status }
        if status & ~old & VirtioStatus.driverOK != 0 { startEnabledQueues() }
    }

    private func acceptFeatures() -> Bool {
        let (accepted, offered) = registers.withLock { ($0.accepted, $0.offered) }
        guard accepted & ~offered == 0, accepted & VirtioFeature.version1 != 0 else {
            Self.log.guest("\(name): the driver accepted features that were not offered")
            return false
        }
        do throws(VirtioDeviceError) {
            // SAFETY: on the control thread.
            try unsafe device.setFeatures(accepted)
            // Another CPU may go on writing to the register.
            registers.withLock { $0.negotiated = accepted }
            return true
        } catch {
            Self.log.guest("\(name) refused its features: \(error)")
            return false
        }
    }

    /// Back to the state after creation, but for the PCI part.
    func resetDevice() {
        for queue in kicks.indices { unroute(queue) }
        // SAFETY: on the control thread.
        unsafe device.reset()
        for queue in kicks.indices {
            unsafe controlState.isRunning[queue] = false
            kicks[queue].drain()
            calls[queue].drain()
        }
        awaited.withLock { $0 = [:] }
        let offered = unsafe Self.transportFeatures(device.features, pace)
        registers.withLock { $0.reset(offered: offered) }
    }

    // MARK: Queues

    private func enableQueue(_ queue: Int) {
        let isLive = registers.withLock { registers in
            registers.queues[queue].isEnabled = true
            return registers.status & VirtioStatus.driverOK != 0
        }
        if isLive { startQueue(queue) }
    }

    private func startEnabledQueues() {
        for queue in kicks.indices where registers.withLock({ $0.queues[queue].isEnabled }) {
            startQueue(queue)
        }
    }

    /// Starts a queue from its beginning.
    private func startQueue(_ queue: Int) {
        // SAFETY: on the control thread, here and below.
        guard unsafe !controlState.isRunning[queue] else { return }
        let (layout, features) = registers.withLock { ($0.queues[queue].layout, $0.negotiated) }
        let isPacked = features & VirtioFeature.packedRing != 0
        guard layout.size > 0, isPacked || layout.size & (layout.size &- 1) == 0 else {
            deviceFailed("queue \(queue) has \(layout.size) entries, which is no power of two")
            return
        }
        let setup = QueueSetup(
            layout: layout, features: features, memory: memory, state: .fresh(features: features),
            kick: kicks[queue], call: calls[queue])
        prepareLockstep(queue, layout)
        do throws(VirtioDeviceError) {
            try unsafe device.startQueue(queue, setup)
            unsafe controlState.isRunning[queue] = true
            route(queue)
        } catch {
            deviceFailed("queue \(queue) does not start: \(error)")
        }
    }

    /// The driver resets one queue (VIRTIO 1.3, section 2.6.1).
    private func resetQueue(_ queue: Int) {
        unroute(queue)
        if unsafe controlState.isRunning[queue] {
            unsafe controlState.isRunning[queue] = false
            _ = unsafe device.stopQueue(queue)
        }
        kicks[queue].drain()
        calls[queue].drain()
        registers.withLock { registers in
            let maximum = registers.queues[queue].maximumSize
            registers.queues[queue] = .init(maximumSize: maximum)
        }
    }

    // MARK: What the device reports

    /// The device cannot go on: its driver must reset it (section 2.1.2). Call it on the control
    /// thread.
    package func deviceFailed(_ reason: String) {
        Self.log.guest("\(name) needs a reset: \(reason)")
        let isLive = registers.withLock { registers in
            registers.status |= VirtioStatus.needsReset
            return registers.status & VirtioStatus.driverOK != 0
        }
        if isLive { interruptConfig() }
    }

    /// The device's configuration space has changed. Call it on the control thread.
    package func configChanged() {
        let isLive = registers.withLock { registers in
            registers.configGeneration &+= 1
            return registers.status & VirtioStatus.driverOK != 0
        }
        if isLive { interruptConfig() }
    }

    private func interruptConfig() {
        let vector = registers.withLock { registers in
            registers.isr |= 2
            return registers.configVector
        }
        if vector != VirtioRegisters.noVector { msix.trigger(Int(vector)) }
    }

    // MARK: Interrupts of queues

    /// Vectors may have been masked, unmasked or changed. On a vCPU thread.
    func vectorsChanged() {
        guard mayBind.load(ordering: .relaxed) else { return }
        control.perform { [self] in
            for queue in kicks.indices where unsafe controlState.isRunning[queue] {
                unroute(queue)
                route(queue)
            }
        }
    }

    /// Lets the calls of a queue become interrupts: by the virtual machine if the vector is
    /// unmasked and it can, else by watching them.
    private func route(_ queue: Int) {
        // In lockstep the rings say when to interrupt.
        guard pace == .free else { return }
        let call = calls[queue]
        if unsafe controlState.canBind, let message = msix.message(vector(queue)),
            message.isInterrupt
        {
            let isBound = machine.bindInterrupt(call, address: message.address, data: message.data)
            unsafe controlState.canBind = isBound
            mayBind.store(isBound, ordering: .relaxed)
            if isBound {
                unsafe controlState.routes[queue] = .bound
                return
            }
        }
        unsafe controlState.routes[queue] = .watched
        control.watch(call) { [weak self] in self?.queueCalled(queue) }
    }

    private func unroute(_ queue: Int) {
        switch unsafe controlState.routes[queue] {
        case .idle: break
        case .watched: control.unwatch(calls[queue])
        case .bound: machine.unbindInterrupt(calls[queue])
        }
        unsafe controlState.routes[queue] = .idle
    }

    private func vector(_ queue: Int) -> Int {
        Int(registers.withLock { $0.queues[queue].vector })
    }

    private func queueCalled(_ queue: Int) {
        if calls[queue].drain() { interruptQueue(queue) }
    }

    func interruptQueue(_ queue: Int) {
        if msix.isEnabled {
            msix.trigger(vector(queue))
        } else {
            // There is no interrupt pin; a driver without MSI-X polls.
            registers.withLock { $0.isr |= 1 }
        }
    }
}
