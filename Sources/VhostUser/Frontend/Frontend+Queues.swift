internal import Core

// How a back end is told of queues, and asked how far they got.
extension Frontend {
    func address(_ index: Int, _ layout: QueueLayout) -> Payload {
        .vringAddress(
            VringAddress(
                index: UInt32(truncatingIfNeeded: index),
                flags: logTarget != nil ? VringAddress.logFlag : 0,
                descriptors: layout.descriptors.rawValue &+ Self.userAddressBase,
                used: layout.device.rawValue &+ Self.userAddressBase,
                available: layout.driver.rawValue &+ Self.userAddressBase,
                log: layout.device.rawValue))
    }

    /// Sets up and starts a queue from its state.
    func sendQueue(_ link: FrontendLink, _ index: Int) throws(LinkError) {
        guard let queue = queues[index] else { return }
        let setup = queue.setup
        try sendMemory(link, setup.memory)
        try sendInflight(link)
        let number = UInt32(truncatingIfNeeded: index)
        func state(_ value: UInt32) -> Payload {
            .vringState(VringState(index: number, value: value))
        }
        let base =
            isPacked
            ? UInt32(setup.state.nextAvailable) | UInt32(setup.state.nextUsed) << 16
            : UInt32(setup.state.nextAvailable)
        try link.command(.setVringNum, state(UInt32(setup.layout.size)))
        try link.command(.setVringBase, state(base))
        try link.command(.setVringAddr, address(index, setup.layout))
        if link.has(.inBandNotifications) {
            watchKick(index)
        } else {
            try sendEvent(link, .setVringErr, number, queue.error)
            try sendEvent(link, .setVringCall, number, setup.call)
            try sendEvent(link, .setVringKick, number, setup.kick)
        }
        if link.hasProtocolFeatures { try link.command(.setVringEnable, state(1)) }
    }

    /// Lets kicks become messages, for as long as there is this back end.
    private func watchKick(_ index: Int) {
        guard let kick = queues[index]?.setup.kick else { return }
        queues[index]?.kickWatch = loop.watch(kick.rawValue, for: .readable) { [unowned self] _ in
            kick.drain()
            let state = VringState(index: UInt32(truncatingIfNeeded: index), value: 0)
            do {
                try withLink { link throws(LinkError) in
                    try link.command(.vringKick, .vringState(state))
                }
            } catch {
                Self.log.guest("\(error)")
            }
        }
    }

    private func sendEvent(
        _ link: FrontendLink, _ request: FrontendRequest, _ queue: UInt32, _ event: EventFD?
    ) throws(LinkError) {
        let noEvent: UInt64 = event == nil ? 0x100 : 0
        try link.command(request, .u64(UInt64(queue) | noEvent), fds: event.map { [$0.fd] } ?? [])
    }

    /// Stops a queue.
    /// - Parameter mayLeave: whether another back end can finish what this one has taken, which is
    ///   quicker.
    /// - Returns: how far the back end says it got.
    func fetchState(
        _ link: FrontendLink, _ index: Int, mayLeave: Bool = false
    ) throws(LinkError) -> QueueState {
        let number = UInt32(truncatingIfNeeded: index)
        let request: FrontendRequest =
            mayLeave && link.has(.skipDrain) ? .getVringBaseSkipDrain : .getVringBase
        let reply = try link.query(request, .vringState(VringState(index: number, value: 0)))
        guard case .vringState(let state) = reply.payload, state.index == number else {
            throw .broken(
                .protocolError(
                    ProtocolError("reply to \(request.rule.name)", "index", "it is not \(index)")))
        }
        if link.hasProtocolFeatures {
            try link.command(
                .setVringEnable, .vringState(VringState(index: number, value: 0)))
        }
        return QueueState(
            nextAvailable: UInt16(truncatingIfNeeded: state.value),
            nextUsed: isPacked
                ? UInt16(truncatingIfNeeded: state.value >> 16) : recoveredState(index).nextUsed)
    }

    /// How far a queue got whose back end cannot be asked any more. What it had taken and not given
    /// back counts as not taken; the memory for what is in flight tells another back end more.
    func recoveredState(_ index: Int) -> QueueState {
        guard let setup = queues[index]?.setup else { return freshState }
        if isPacked {
            guard let used = keptPackedPosition(index) else { return setup.state }
            return QueueState(nextAvailable: used, nextUsed: used)
        }
        guard let place = setup.layout.device.advanced(by: 2) else { return setup.state }
        do {
            let used = try setup.memory.read(place, as: UInt16.self)
            return QueueState(nextAvailable: used, nextUsed: used)
        } catch {
            return setup.state
        }
    }

    private func keptPackedPosition(_ index: Int) -> UInt16? {
        guard let inflight else { return nil }
        do {
            return try InflightArea.packedNextUsed(
                inflight.description, inflight.fd, queue: index)
        } catch {
            Self.log(.warning, "\(error)")
            return nil
        }
    }

    /// Checks that the rings lie in guest memory, so that a back end has no reason to object.
    func checkLayout(_ setup: QueueSetup) throws(VirtioDeviceError) {
        let size = UInt64(setup.layout.size)
        guard size > 0, size <= UInt64(options.maximumQueueSize) else {
            throw VirtioDeviceError("\(size) entries are not 1 to \(options.maximumQueueSize)")
        }
        let event: UInt64 = setup.features & VirtioFeature.eventIndex != 0 ? 2 : 0
        for (part, address, count) in [
            (QueuePart.descriptors, setup.layout.descriptors, 16 * size),
            (.driver, setup.layout.driver, setup.isPacked ? 4 : 4 + 2 * size + event),
            (.device, setup.layout.device, setup.isPacked ? 4 : 4 + 8 * size + event),
        ] where setup.memory.region(address, count: count) == nil {
            throw VirtioDeviceError(
                "\(QueueError.partOutsideMemory(part, address, count: count))")
        }
    }
}
