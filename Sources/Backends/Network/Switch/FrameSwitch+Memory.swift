internal import CLinux
internal import Core
internal import Glibc

// Ports whose queues the switch serves itself.
extension FrameSwitch {
    /// Frames of a port before the others have their turn.
    private static let batch = 64
    /// How long a frame waits for buffers of the driver that it is for; no other port has to wait.
    private static let holdTime: UInt64 = 5_000_000
    /// A driver that gives none is not waited for again before that. So drivers that never do slow down
    /// those who send to them by a tenth.
    private static let holdPause: UInt64 = 50_000_000

    /// What is known of frames between two stations; others have not come in the meantime.
    private struct Route {
        var destination: UInt64 = 0
        var origin: UInt64 = 0
        var target = Target.nowhere
        var port: MemoryPort?
    }

    /// Moves frames that the drivers have sent.
    /// - Returns: whether there were any.
    func serveMemoryPorts() -> Bool {
        var isBusy = false
        for (index, memory) in memoryPorts {
            guard memory.sending != nil, mayGoOn(memory) else { continue }
            if serve(index, memory) { isBusy = true }
        }
        for (_, memory) in memoryPorts { memory.publish() }
        return isBusy
    }

    /// Whether a port has something to do, as its rings say.
    var hasWork: Bool {
        for (_, memory) in memoryPorts {
            guard let queue = memory.sending else { continue }
            if memory.hold == nil ? queue.hasAvailable : mayGoOn(memory) { return true }
        }
        return false
    }

    /// Whether it has not to wait for another one.
    private func mayGoOn(_ memory: MemoryPort) -> Bool {
        guard let hold = memory.hold else { return true }
        return now >= hold.until || ports[hold.port]?.memory?.receiving?.hasAvailable != false
    }

    private func serve(_ index: Int, _ source: MemoryPort) -> Bool {
        guard let port = ports[index] else { return false }
        source.sending?.disableNotifications()
        var route = Route()
        var count = 0
        while count < Self.batch, source.take() {
            count += 1
            let frame = source.frame
            if frame.destination != route.destination || frame.origin != route.origin
                || route.target < 0
            {
                let target = target(frame.destination, frame.origin, from: index, port)
                route = Route(
                    destination: frame.destination, origin: frame.origin, target: target,
                    port: target >= 0 ? ports[target]?.memory : nil)
            } else {
                port.countReceived()
            }
            if let target = route.port, target.takes(source) {
                if target.deliver(source) == .noRoom, waits(source, for: target, route.target) {
                    break
                }
                source.hold = nil
            } else if route.target != Target.nowhere {
                forward(source, to: route.target, from: index)
            }
            source.giveBack()
        }
        return count > 0
    }

    /// The driver that a frame is for has no buffers.
    /// - Returns: whether it is waited for.
    private func waits(_ source: MemoryPort, for target: MemoryPort, _ index: Int) -> Bool {
        if let hold = source.hold, now >= hold.until { target.patienceEnds = now + Self.holdPause }
        guard now >= target.patienceEnds else { return false }
        source.putBack()
        if source.hold == nil { source.hold = (index, now + Self.holdTime) }
        return true
    }

    /// Sends a frame by way of the switch's own memory.
    private func forward(_ source: MemoryPort, to target: Int, from index: Int) {
        let count = unsafe source.finish(into: buffer)
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
            for _ in 0..<16 {
                if hasWork { return 0 }
                clinux_pause()
            }
            if !polling.isOver { return 0 }
            isSearching = false
        }
        var hasMore = false
        var deadline = UInt64.max
        for (_, memory) in memoryPorts {
            if let hold = memory.hold {
                deadline = min(deadline, hold.until)
                if ports[hold.port]?.memory?.receiving?.enableNotifications() == true {
                    hasMore = true
                }
            } else if memory.sending?.enableNotifications() == true {
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
        guard let hold = memory.hold else { return memory.sending?.setup.kick }
        return ports[hold.port]?.memory?.receiving?.setup.kick
    }
}
