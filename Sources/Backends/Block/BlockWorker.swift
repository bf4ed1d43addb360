internal import CLinux
internal import Core
internal import Synchronization

/// What the queues of a disk have in common.
final class BlockShared: Sendable {
    let image: RawImage
    /// The serial number, padded with NULs.
    let serial: [UInt8]
    /// Whether a completed write may still be in a cache, as the driver has set it in the
    /// configuration space. Written by the control thread.
    let isWriteback: Atomic<Bool>
    /// Reads as zeroes, and takes no memory as long as nobody writes to it.
    let zeroes: MemoryMapping

    /// Threads that each queue may have besides its own, for operations that wait.
    let helperCount: Int
    /// How long a queue's thread looks for requests before it sleeps, at most.
    let pollMicroseconds: UInt64
    /// What the queues' threads restrict themselves with.
    let queueFilter: SeccompFilter?

    static let zeroesSize = 1 << 20

    init(
        image: RawImage, options: BlockOptions, queueFilter: SeccompFilter? = nil
    ) throws(BlockError) {
        self.image = image
        helperCount = options.helperCount ?? (image.isInMemory ? 0 : BlockOptions.usualHelperCount)
        pollMicroseconds = options.pollMicroseconds
        self.queueFilter = queueFilter
        isWriteback = Atomic(options.isWriteback)
        let text = Array(options.serial.utf8.prefix(BlockOptions.serialSize))
        serial = text + [UInt8](repeating: 0, count: BlockOptions.serialSize - text.count)
        do throws(SystemError) {
            zeroes = try MemoryMapping(anonymous: Self.zeroesSize)
        } catch {
            throw BlockError("cannot allocate memory: \(error)")
        }
    }
}

/// Serves one queue: takes requests from the ring, has the engine do their I/O and gives them
/// back. All of it happens on the queue's own thread; when nothing is to be done, that sleeps.
final class BlockWorker<Engine: IOEngine> {
    let queue: Virtqueue
    let engine: Engine
    let shared: BlockShared
    let slots: SlotTable
    /// The features that the driver accepted.
    let features: UInt64
    private let call: EventFD?
    private let stop: StopSignal
    /// Requests are left as they are.
    private var isLeaving = false
    private var hasPushed = false
    private var polling: IdlePolling
    /// How many requests are taken before the driver is shown what was done: more with every turn.
    private var batch = Engine.firstBatch
    /// Where the image was seen to end in this turn; asked when something is to be changed.
    private var imageEnd: UInt64 = 0

    static var log: Log { blockLog }

    init(queue: Virtqueue, engine: Engine, shared: BlockShared, stop: StopSignal) {
        self.queue = queue
        self.engine = engine
        self.shared = shared
        slots = SlotTable(count: Int(queue.size))
        features = queue.setup.features
        call = queue.setup.call
        self.stop = stop
        polling = IdlePolling(microseconds: shared.pollMicroseconds)
    }

    var image: RawImage { shared.image }

    /// Serves the queue until the engine reports the stop signal and all that was taken from the
    /// ring has been given back, or, if that is to be abrupt, nothing of it is under way.
    func run() {
        engine.begin()
        // Requests may have come before anybody listened.
        var mustLook = true
        var isStopping = false
        while !isStopping || slots.inFlight > 0 {
            imageEnd = 0
            let isIdle = !mustLook && !isStopping && slots.inFlight == 0
            if isIdle {
                batch = Engine.firstBatch
                mustLook = polling.find(in: queue)
            }
            engine.wait(mayBlock: !mustLook || isStopping || slots.inFlight == slots.count)
            if isIdle, !mustLook { polling.endSleep() }
            while let event = engine.nextEvent() {
                switch event {
                case .completion(let slot, let result): complete(slot, result)
                case .kick: mustLook = true
                case .stop:
                    isStopping = true
                    leaveIfAbrupt()
                }
            }
            publish()
            guard mustLook, !isStopping else { continue }
            queue.disableNotifications()
            guard takeRequests() else { continue }
            publish()
            mustLook = queue.enableNotifications()
        }
        publish()
    }

    private func leaveIfAbrupt() {
        guard stop.isAbrupt, !isLeaving else { return }
        isLeaving = true
        engine.cancel()
    }

    /// Hands an operation to the engine.
    @inline(__always)
    func submit(_ operation: IOOperation, _ slot: UInt32) {
        if isLeaving { return leave(slot) }
        engine.submit(operation, slot: slot)
    }

    /// Whether a request is to be left as it is, of which an operation has been cancelled.
    @inline(__always)
    func leaves(_ result: Int64) -> Bool { isLeaving && result == -Int64(ECANCELED) }

    /// Leaves a request to whoever finds it in the queue's `InflightRegion`.
    func leave(_ slot: UInt32) {
        slots[slot].phase = .free
        slots.release(slot)
    }

    /// Takes requests until the ring is empty, a batch is full or there is no room for more.
    /// - Returns: whether the ring is empty.
    private func takeRequests() -> Bool {
        for _ in 0..<batch {
            guard let slot = slots.nextFree else { return false }
            do throws(QueueError) {
                guard try queue.pop(into: slots[slot].chain) else { return true }
            } catch {
                Self.log.guest("queue stopped: \(error)")
                return true
            }
            slots.take()
            begin(slot)
            // Before the next one begins: an engine that does everything at once keeps the order, also
            // of requests that need no engine.
            while case .completion(let slot, let result)? = engine.nextDone() {
                complete(slot, result)
            }
        }
        batch = min(2 &* batch, Engine.batch)
        return false
    }

    /// Shows the driver what was given back, with at most one call.
    private func publish() {
        guard hasPushed else { return }
        hasPushed = false
        if queue.publish() { call?.signal() }
    }

    /// Whether what lies before `end` is still there to be written to. The answer costs a system
    /// call, so it is kept for one turn of the loop.
    @inline(__always)
    func isInsideImage(end: UInt64) -> Bool {
        if end > imageEnd { imageEnd = image.currentEnd }
        return end <= imageEnd
    }

    /// Gives a request back.
    func finish(_ slot: UInt32, _ status: BlockStatus) {
        let chain = slots[slot].chain
        // The status is the last byte of all that can be written. What comes before it may have
        // been written even if the request failed.
        let length = chain.writableLength
        chain.write(at: length &- 1, status.rawValue)
        give(back: slot, written: UInt32(clamping: length))
    }

    /// Gives a request back that has no room for a status.
    func give(back slot: UInt32, written: UInt32) {
        queue.push(slots[slot].chain, written: written)
        hasPushed = true
        slots[slot].phase = .free
        slots.release(slot)
    }
}

let blockLog = Log("block")
