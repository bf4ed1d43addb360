internal import CLinux
internal import Core
internal import Glibc

// Ports whose queues the switch serves itself.
extension FrameSwitch {
    /// Frames of a port before the others have their turn.
    private static let batch = 64
    /// Likewise where there is a limit, which is then not far exceeded.
    private static let limitedBatch = 4
    /// How long a frame waits for buffers of the driver that it is for; no other port has to wait.
    private static let holdTime: UInt64 = 5_000_000
    /// A driver that gives none is not waited for again before that. So drivers that never do slow down
    /// those who send to them by a tenth.
    private static let holdPause: UInt64 = 50_000_000

    /// How often the rings are looked at before the kernel is asked.
    private static let idleTurns = 64

    /// What is known of frames between two stations; others have not come in the meantime.
    // SAFETY: the receiver's port keeps it until its queue stops, which it does between two turns.
    @safe private struct Route {
        var destination: UInt64 = 0
        var origin: UInt64 = 0
        var target = Target.nowhere
        var receiver: Unmanaged<PortReceiver>?
    }

    /// Moves frames that the drivers have sent.
    /// - Returns: whether there were any.
    func serveMemoryPorts() -> Bool {
        var isBusy = false
        for (index, memory) in memoryPorts {
            guard let sender = memory.sender, mayGoOn(memory) else { continue }
            if serve(index, memory, sender) { isBusy = true }
        }
        for (_, memory) in memoryPorts { memory.publish() }
        return isBusy
    }

    /// Whether a port has something to do, as its rings say.
    var hasWork: Bool {
        for (_, memory) in memoryPorts {
            guard let queue = memory.sender?.queue else { continue }
            if mayGoOn(memory), memory.hold != nil || memory.hasAhead || queue.hasAvailable {
                return true
            }
        }
        return false
    }

    /// Whether it has not to wait for another one.
    private func mayGoOn(_ memory: MemoryPort) -> Bool {
        if let time = memory.sendTime, now < time { return false }
        guard let hold = memory.hold else { return true }
        return now >= hold.until
            || ports[hold.port]?.memory?.receiver?.queue.hasAvailable != false
    }

    private func serve(_ index: Int, _ memory: MemoryPort, _ sender: PortSender) -> Bool {
        guard let port = ports[index] else { return false }
        let limit = memory.limits.transmit
        memory.sendTime = limit?.wait(at: now)
        if memory.sendTime != nil { return false }
        let most = limit == nil ? Self.batch : Self.limitedBatch
        sender.queue.disableNotifications()
        var route = Route()
        var count = 0
        while count < most, let frame = sender.take(most - count) {
            count += 1
            if frame.destination != route.destination || frame.origin != route.origin
                || route.target < 0
            {
                route = self.route(of: frame, from: index, port)
            } else {
                port.countReceived()
            }
            let delivery = unsafe route.receiver?._withUnsafeGuaranteedRef { receiver in
                receiver.takes(frame, from: sender) ? receiver.deliver(frame, from: sender) : nil
            }
            switch delivery {
            case .done?, .dropped?: break
            case .noRoom?:
                // It is looked at once more.
                if waits(memory, for: route.target) { return true }
            case nil:
                if route.target != Target.nowhere {
                    forward(frame, sender, to: route.target, from: index)
                }
            }
            if memory.hold != nil { memory.hold = nil }
            limit?.use(bytes: frame.length, packets: 1, at: now)
            sender.giveBack()
        }
        return count > 0
    }

    private func route(of frame: PortSender.Frame, from index: Int, _ port: SwitchPort) -> Route {
        let target = target(frame.destination, frame.origin, from: index, port)
        let receiver = target >= 0 ? ports[target]?.memory?.receiver : nil
        return unsafe Route(
            destination: frame.destination, origin: frame.origin, target: target,
            receiver: receiver.map { unsafe .passUnretained($0) })
    }

    /// The driver that a frame is for has no buffers.
    /// - Returns: whether it is waited for.
    private func waits(_ source: MemoryPort, for index: Int) -> Bool {
        guard let target = ports[index]?.memory else { return false }
        if let hold = source.hold, now >= hold.until { target.patienceEnds = now + Self.holdPause }
        guard now >= target.patienceEnds else { return false }
        if source.hold == nil { source.hold = (index, now + Self.holdTime) }
        return true
    }

    /// Sends a frame by way of the switch's own memory.
    private func forward(
        _ frame: PortSender.Frame, _ sender: PortSender, to target: Int, from index: Int
    ) {
        let count = unsafe sender.finish(frame, into: buffer)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<count])
        unsafe send(bytes, (target, 0, count), from: index)
    }

    // MARK: Waiting

    /// Looks for work, for a while.
    /// - Returns: for how long the kernel may be asked to wait.
    func search() -> Int32 {
        if memoryPorts.isEmpty { return timeout }
        if !isSearching { isSearching = polling.begin() }
        if isSearching {
            for _ in 0..<Self.idleTurns {
                if hasWork { return 0 }
                clinux_pause()
            }
            if !polling.isOver { return 0 }
            isSearching = false
        }
        var hasMore = false
        var deadline = UInt64.max
        for (_, memory) in memoryPorts {
            if let time = memory.sendTime {
                deadline = min(deadline, time)
            } else if let hold = memory.hold {
                deadline = min(deadline, hold.until)
                if ports[hold.port]?.memory?.receiver?.queue.enableNotifications() == true {
                    hasMore = true
                }
            } else if memory.hasAhead || memory.sender?.queue.enableNotifications() == true {
                hasMore = true
            }
        }
        if hasMore { return 0 }
        guard deadline < .max else { return timeout }
        let wait = Clock.milliseconds(until: deadline)
        return timeout < 0 ? wait : min(timeout, wait)
    }

    /// What a port waits for.
    func kick(_ memory: MemoryPort) -> EventFD? {
        if memory.sendTime != nil { return nil }
        guard let hold = memory.hold else { return memory.sender?.queue.setup.kick }
        return ports[hold.port]?.memory?.receiver?.queue.setup.kick
    }
}
