internal import Core

extension BackendSession {
    // MARK: What the front end says

    private func queue(_ index: UInt32, message: String) throws(ProtocolError) -> BackendQueue {
        guard let position = Int(exactly: index), position < queues.count else {
            throw ProtocolError(message, "index", "there is no queue \(index)")
        }
        return queues[position]
    }

    /// Takes apart the payload of a message that carries an event or says that there is none.
    func queueAndEvent(
        _ value: UInt64, _ fds: [SharedFD], message: String
    ) throws(ProtocolError) -> (BackendQueue, SharedFD?) {
        let queue = try queue(UInt32(value & 0xff), message: message)
        let hasNone = value & 0x100 != 0
        guard hasNone == fds.isEmpty else {
            throw ProtocolError(
                message, "descriptors",
                hasNone ? "there is one although bit 8 is set" : "there is none")
        }
        return (queue, fds.first)
    }

    func setSize(_ state: VringState) throws(ProtocolError) {
        let queue = try queue(state.index, message: "SET_VRING_NUM")
        let maximum = device.maximumQueueSize(queue.index)
        guard let size = UInt16(exactly: state.value), size > 0, size <= maximum else {
            throw ProtocolError("SET_VRING_NUM", "num", "\(state.value) is not 1 to \(maximum)")
        }
        change(queue) { $0.size = size }
    }

    func setAddress(_ address: VringAddress) throws(ProtocolError) {
        let queue = try queue(address.index, message: "SET_VRING_ADDR")
        guard address.flags & ~VringAddress.logFlag == 0 else {
            throw ProtocolError(
                "SET_VRING_ADDR", "flags", "0x\(String(address.flags, radix: 16)) has no meaning")
        }
        if memoryTable.memory != nil, queue.size > 0, iotlb == nil {
            _ = try layout(address, size: queue.size, message: "SET_VRING_ADDR")
        }
        change(queue) { $0.address = address }
    }

    func setBase(_ state: VringState) throws(ProtocolError) {
        let queue = try queue(state.index, message: "SET_VRING_BASE")
        guard isPacked || state.value <= UInt32(UInt16.max) else {
            throw ProtocolError("SET_VRING_BASE", "num", "\(state.value) is more than 65535")
        }
        var base = QueueState(
            nextAvailable: UInt16(truncatingIfNeeded: state.value),
            nextUsed: UInt16(truncatingIfNeeded: state.value >> 16))
        // DPDK's front end says the available half only when it starts a packed ring.
        if isPacked, base == QueueState(nextAvailable: 0x8000, nextUsed: 0) { base = .freshPacked }
        change(queue) { $0.base = base }
    }

    /// Stops a ring and says how far it got.
    func takeBase(
        _ state: VringState, _ request: FrontendRequest
    ) throws(ProtocolError) -> VringState {
        let queue = try queue(state.index, message: request.rule.name)
        // A front end that can ask for it each time does not mean it otherwise.
        let mayLeave =
            request == .getVringBaseSkipDrain
            || acknowledgedProtocol.contains(.baseWithInflight)
                && !acknowledgedProtocol.contains(.skipDrain)
        if mayLeave, let region = inflight?.region(queue: queue.index, isPacked: isPacked) {
            suspendDevice(queue, region)
        } else {
            // The answer says all, so a ring that the front end sets up anew has no history.
            forgetInflight(queue)
        }
        queue.stop()
        forgetTranslations()
        let base = queue.base ?? freshState
        let value =
            isPacked
            ? UInt32(base.nextAvailable) | UInt32(base.nextUsed) << 16
            : UInt32(base.nextAvailable)
        return VringState(index: state.index, value: value)
    }

    func setKick(_ value: UInt64, _ fds: [SharedFD]) throws(ProtocolError) {
        let (queue, fd) = try queueAndEvent(value, fds, message: "SET_VRING_KICK")
        change(queue) { queue in
            queue.setKick(fd, on: loop) { [unowned self, unowned queue] in update(queue) }
            // What another back end left unfinished has been kicked already.
            if inflight?.region(queue: queue.index, isPacked: isPacked)?.hasHistory == true {
                queue.start()
            }
        }
    }

    func setCall(_ value: UInt64, _ fds: [SharedFD]) throws(ProtocolError) {
        let (queue, fd) = try queueAndEvent(value, fds, message: "SET_VRING_CALL")
        do {
            if try queue.setCall(fd) { restart(queue) }
        } catch {
            throw ProtocolError("SET_VRING_CALL", "descriptors", "\(error)")
        }
    }

    /// A kick that came as a message starts the ring as any does.
    func takeKick(_ state: VringState) throws(ProtocolError) {
        let queue = try queue(state.index, message: "VRING_KICK")
        guard state.value == 0 else {
            throw ProtocolError("VRING_KICK", "num", "\(state.value) is not 0")
        }
        do {
            try queue.takeKick()
        } catch {
            throw ProtocolError("VRING_KICK", "index", "\(error)")
        }
        update(queue)
    }

    /// Makes calls and errors messages, for queues that are not given events.
    func notifyInBand() throws(ProtocolError) {
        do {
            for queue in queues {
                let state = VringState(index: UInt32(queue.index), value: 0)
                try queue.useMessages(
                    on: loop,
                    call: { [unowned self] in tell(.vringCall, .vringState(state)) },
                    error: { [unowned self] in tell(.vringErr, .vringState(state)) })
            }
        } catch {
            throw ProtocolError("SET_PROTOCOL_FEATURES", "u64", "\(error)")
        }
    }

    func enable(_ state: VringState) throws(ProtocolError) {
        let queue = try queue(state.index, message: "SET_VRING_ENABLE")
        guard state.value <= 1 else {
            throw ProtocolError("SET_VRING_ENABLE", "num", "\(state.value) is not 0 or 1")
        }
        queue.isEnabled = state.value == 1
        update(queue)
    }

    // MARK: Driving the device

    /// Changes something about a ring while the device does not serve it. One that could not be
    /// served gets another chance.
    private func change(_ queue: BackendQueue, _ body: (BackendQueue) -> Void) {
        stopDevice(queue)
        queue.isBroken = false
        body(queue)
        update(queue)
    }

    /// The same with all rings.
    func changeAll(_ body: () -> Void) {
        for queue in queues { stopDevice(queue) }
        body()
        for queue in queues {
            queue.isBroken = false
            update(queue)
        }
    }

    /// Makes the device serve the ring, or leave it, as all that is known about it says. A disabled
    /// ring is left alone: for the devices served here, processing a request has side effects.
    func update(_ queue: BackendQueue) {
        let wanted =
            queue.isStarted && queue.isEnabled && queue.isConfigured && features != nil
            && memoryTable.memory != nil && !queue.isBroken && !isClosed
            && (queue.isRunning || isTranslated(queue))
        if wanted == queue.isRunning { return }
        guard wanted else { return stopDevice(queue) }
        do {
            try startDevice(queue)
        } catch {
            BackendServer.log.guest("queue \(queue.index) cannot be served: \(error)")
            queue.isBroken = true
            queue.error?.signalIfRoom()
        }
    }

    /// Lets a ring that runs go on with new settings.
    func restart(_ queue: BackendQueue) {
        guard queue.isRunning else { return }
        stopDevice(queue)
        update(queue)
    }

    func stopDevice(_ queue: BackendQueue) {
        guard queue.isRunning else { return }
        queue.isRunning = false
        queue.iotlb?.cut()
        queue.iotlb = nil
        queue.base = device.stopQueue(queue.index)
    }

    /// Stops the device at once; the region tells whoever goes on what is unfinished.
    private func suspendDevice(_ queue: BackendQueue, _ region: InflightRegion) {
        guard queue.isRunning else { return }
        queue.isRunning = false
        queue.iotlb?.cut()
        queue.iotlb = nil
        let state = device.suspendQueue(queue.index)
        queue.base = state
        if state.nextUsed == state.nextAvailable { region.clear() }
    }

    private var freshState: QueueState { .fresh(features: features ?? 0) }

    private func startDevice(_ queue: BackendQueue) throws {
        guard let address = queue.address, let memory = memoryTable.memory, let features else {
            return
        }
        let layout = try layout(address, size: queue.size, message: "queue \(queue.index)")
        let region = inflight?.region(queue: queue.index, isPacked: isPacked)
        var state = queue.base ?? freshState
        if !isPacked {
            // The used ring itself is the truth.
            state.nextUsed = try memory.read(
                GuestAddress(layout.device.rawValue &+ 2), as: UInt16.self)
        }
        var setup = QueueSetup(
            layout: layout,
            features: features & ~VhostFeature.all & ~VirtioFeature.accessPlatform, memory: memory,
            state: state, kick: queue.kick, call: queue.call)
        queue.iotlb = iotlb.map { IOTLBClient($0) }
        setup.iotlb = queue.iotlb
        setup.error = queue.error
        setup.inflight = region
        if features & VhostFeature.logAll != 0, let dirtyLog {
            try checkLog(dirtyLog, address, size: queue.size)
            setup.dirtyLog = dirtyLog
            setup.dirtyLogEvent = logEvent
            if address.flags & VringAddress.logFlag != 0 {
                // Front ends name the device area here also for packed rings, where used
                // descriptors are in the descriptor ring. Its guest address is known anyway.
                setup.usedLogAddress =
                    isPacked
                    ? layout.descriptors : iotlb != nil ? layout.device : GuestAddress(address.log)
            }
        }
        try device.startQueue(queue.index, setup)
        queue.isRunning = true
        // Whoever served the ring before, we or a process that was killed, may have taken a kick
        // without acting on it, or used a buffer without saying so. One too many does no harm.
        if !setup.isFresh {
            queue.kick?.signalIfRoom()
            queue.call?.signalIfRoom()
        }
        onQueueStart?()
    }
}
