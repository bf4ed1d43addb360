internal import CLinux
internal import Core
internal import Glibc

/// Serves a pair of queues, or one of them, on a thread of its own: moves frames between the
/// driver's buffers and the up-link, and sleeps when there are none.
final class NetworkWorker {
    /// Frames in each direction before the loop looks around.
    private static let turnLimit = 64
    /// Likewise where there is a limit, which is then not far exceeded.
    private static let limitedTurn = 4
    /// How often a busy thread, or one that looks for work, goes round before it asks the kernel what
    /// has happened; and a busy one that has nothing there but the stop signal.
    private static let busyTurns = 8
    private static let aloneTurns = 64
    private static let idleTurns = 64

    let link: any UpLink
    private let stop: EventFD
    private let onLinkChange: @Sendable (Bool) -> Void
    var receiver: ReceiveQueue?
    var transmitter: TransmitQueue?
    /// Which frames the driver wants; `nil`: all.
    var filter: ReceiveFilter?
    private let limits: TrafficLimits
    /// When the limits let frames go again, if they do not now.
    private var transmitTime: UInt64?
    private var receiveTime: UInt64?
    private var poller = Poller()
    private var polling: IdlePolling
    private var turns = 0
    private var wasConnected = false

    init(
        _ link: any UpLink, stop: EventFD, limits: TrafficLimits, polling: IdlePolling,
        onLinkChange: @escaping @Sendable (Bool) -> Void
    ) {
        self.link = link
        self.stop = stop
        self.limits = limits
        self.polling = polling
        self.onLinkChange = onLinkChange
    }

    /// Serves until the stop signal.
    func run() {
        // Frames may have come, and buffers, before anybody listened.
        var events = Poller.Events.all
        while !events.contains(.stop) {
            link.turn(isReadable: events.contains(.readable))
            reportLink()
            wake(events)
            let hasSent = transmit()
            let hasMore = receive()
            // A link that was just lost is told of first.
            if link.isConnected != wasConnected {
                events = wait(mayBlock: false)
            } else if hasSent || hasMore {
                events = glance(isReadable: hasMore)
            } else {
                events = search()
            }
        }
        pause()
    }

    /// Asks the kernel only now and then: it is a busy time.
    private func glance(isReadable: Bool) -> Poller.Events {
        turns += 1
        let limit = link.readFD < 0 ? Self.aloneTurns : Self.busyTurns
        guard turns >= limit else { return isReadable ? .readable : [] }
        turns = 0
        return wait(mayBlock: false)
    }

    /// Looks for work, for a while, and then sleeps until there is some.
    private func search() -> Poller.Events {
        turns = 0
        let mayTransmit = transmitter?.isBlocked == false && transmitTime == nil
        if deadline == nil, polling.begin() {
            if mayTransmit {
                transmitter?.queue.disableNotifications()
                transmitter?.isIdle = false
            }
            repeat {
                for _ in 0..<Self.idleTurns {
                    if hasWork {
                        polling.found()
                        return []
                    }
                    clinux_pause()
                }
                let events = wait(mayBlock: false)
                if !events.isEmpty {
                    polling.found()
                    return events
                }
            } while !polling.isOver
        }
        if mayTransmit, let queue = transmitter?.queue {
            let isIdle = !queue.enableNotifications()
            transmitter?.isIdle = isIdle
            if !isIdle { return [] }
        }
        let events = wait(mayBlock: true)
        polling.endSleep()
        return events
    }

    /// Whether one of the rings has something that was not there before.
    private var hasWork: Bool {
        if let transmitter, !transmitter.isBlocked, transmitter.queue.hasAvailable { return true }
        guard let receiver, receiver.needsBuffers, receiver.queue.hasAvailable else {
            return false
        }
        receiver.needsBuffers = false
        return true
    }

    private func wake(_ events: Poller.Events) {
        if events.contains(.receiveKick) { receiver?.needsBuffers = false }
        if events.contains(.transmitKick) { transmitter?.isIdle = false }
        if events.contains(.writable) { transmitter?.isBlocked = false }
        if events.contains(.hangup) {
            link.hangUp()
            transmitter?.isBlocked = false
            // Connects, if it can, in the next turn.
        }
    }

    private func reportLink() {
        guard link.isConnected != wasConnected else { return }
        wasConnected = link.isConnected
        onLinkChange(wasConnected)
    }

    private func wait(mayBlock: Bool) -> Poller.Events {
        let wantsFrames =
            receiver.map { !$0.needsBuffers && !$0.queue.isBroken && receiveTime == nil } ?? false
        let isBlocked = transmitter?.isBlocked ?? false
        return poller.wait(
            .init(
                stop: stop,
                receiveKick: receiver?.needsBuffers == true ? receiver?.queue.setup.kick : nil,
                transmitKick: transmitter?.isIdle == true ? transmitter?.queue.setup.kick : nil,
                readFD: link.readFD, wantsToRead: wantsFrames || !link.isConnected,
                writeFD: isBlocked ? link.writeFD : -1, deadline: deadline, mayBlock: mayBlock))
    }

    private var deadline: UInt64? {
        let times = (link.deadline, transmitTime, receiveTime)
        if case (let time, nil, nil) = times { return time }
        return min(times.0 ?? .max, times.1 ?? .max, times.2 ?? .max)
    }

    // MARK: From the driver

    /// - Returns: whether there may be more to do at once.
    private func transmit() -> Bool {
        guard let transmitter, !transmitter.isIdle, !transmitter.isBlocked else { return false }
        let queue = transmitter.queue
        let batch = transmitter.batch
        if batch.isEmpty, let limit = limits.transmit {
            transmitTime = limit.wait(at: Clock.monotonic())
            if transmitTime != nil { return false }
        }
        queue.disableNotifications()
        // Those that are left are sent first.
        if batch.isEmpty { take(transmitter) }
        if batch.isEmpty { return false }
        let result = link.send(batch)
        if result == .lost {
            // The cable is unplugged.
            batch.dropRest()
        }
        if batch.giveBack(to: queue) > 0, queue.publish() { queue.setup.call?.signal() }
        transmitter.isBlocked = result == .blocked
        return result != .blocked
    }

    private func take(_ transmitter: TransmitQueue) {
        guard let limit = limits.transmit else {
            _ = transmitter.take(TransmitBatch.chainLimit)
            return
        }
        let byteCount = transmitter.take(Self.limitedTurn)
        guard byteCount > 0 else { return }
        limit.use(
            bytes: byteCount, packets: UInt64(transmitter.batch.frameCount),
            at: Clock.monotonic())
    }

    // MARK: To the driver

    /// - Returns: whether there may be more to do at once.
    private func receive() -> Bool {
        guard let receiver, !receiver.needsBuffers else { return false }
        let queue = receiver.queue
        if let limit = limits.receive {
            receiveTime = limit.wait(at: Clock.monotonic())
            if receiveTime != nil { return false }
        }
        queue.disableNotifications()
        var left = limits.receive == nil ? Self.turnLimit : Self.limitedTurn
        var mayHaveMore = true
        while mayHaveMore, left > 0 {
            left -= 1
            switch link.nextFrame() {
            case .nothing: mayHaveMore = false
            case .dropped: break
            case .room(let room): mayHaveMore = receiveFrame(room, receiver)
            }
        }
        if receiver.hasPushed {
            receiver.hasPushed = false
            if queue.publish() { queue.setup.call?.signal() }
        }
        return mayHaveMore
    }

    /// - Returns: whether there may be another one.
    private func receiveFrame(_ room: UInt64, _ receiver: ReceiveQueue) -> Bool {
        let window = receiver.window
        let wanted = room + receiver.headerSize
        guard fill(receiver, wanted: wanted) else {
            return !receiver.needsBuffers
        }
        if window.room < wanted, link.hasLengths {
            link.skipFrame()
            return true
        }
        switch link.receive(window, headerSize: receiver.headerSize) {
        case .nothing: return false
        case .tooLong: return true
        case .frame(let length):
            if let filter, !filter.passes(window, headerSize: receiver.headerSize) { return true }
            if let limit = limits.receive {
                limit.use(bytes: length, packets: 1, at: Clock.monotonic())
            }
            let flags =
                receiver.checksChecksums
                ? ReceivedChecksum.flags(
                    window, headerSize: receiver.headerSize, frameLength: length) : 0
            window.complete(
                length + (link.carriesHeader ? 0 : receiver.headerSize),
                flags: link.carriesHeader ? nil : flags, to: receiver.queue)
            receiver.hasPushed = true
            return true
        }
    }

    /// - Returns: whether the window is as large as it can be expected to become.
    private func fill(_ receiver: ReceiveQueue, wanted: UInt64) -> Bool {
        let window = receiver.window
        let queue = receiver.queue
        do throws(QueueError) {
            if try window.fill(from: queue, wanted: wanted) > 0 {
                networkLog.guest("a buffer of the driver is of no use")
                receiver.hasPushed = true
            }
        } catch {
            networkLog.guest("a queue has stopped: \(error)")
        }
        if window.room >= wanted {
            receiver.hasHadRoom = true
            return true
        }
        if window.isFull { return true }
        if queue.isBroken {
            receiver.needsBuffers = true
            return false
        }
        if queue.enableNotifications() { return false }
        // A driver that never has more does not get more frames either.
        if !link.hasLengths, window.room > 0, !receiver.hasHadRoom { return true }
        receiver.needsBuffers = true
        return false
    }

    // MARK: The end

    /// Gives back to the rings what has been taken and not used.
    private func pause() {
        if let transmitter {
            link.keepRest(of: transmitter.batch)
            finish(transmitter.queue) { transmitter.batch.giveBack(to: transmitter.queue) > 0 }
            transmitter.batch.clear()
            transmitter.isIdle = false
            transmitter.isBlocked = false
        }
        if let receiver {
            link.forgetFrame()
            finish(receiver.queue) { receiver.hasPushed }
            receiver.window.clear()
            receiver.needsBuffers = false
        }
    }

    private func finish(_ queue: Virtqueue, _ hasPushed: () -> Bool) {
        if hasPushed(), queue.publish() { queue.setup.call?.signal() }
        queue.rewind()
    }
}

let networkLog = Log("net")
