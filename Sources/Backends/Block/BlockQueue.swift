internal import Core

/// A queue that has been started: its thread, and how to end it.
final class BlockQueue {
    private let queue: Virtqueue
    private let stopSignal: StopSignal
    private var thread: Thread?

    /// Starts serving `queue` with the first of `engines` that can be set up.
    init(
        _ queue: Virtqueue, index: Int, shared: BlockShared, engines: [EngineKind]
    ) throws(BlockError) {
        guard let kick = queue.setup.kick else {
            throw BlockError("queue \(index) has no kick descriptor, and is not polled")
        }
        self.queue = queue
        do throws(SystemError) {
            stopSignal = StopSignal(try EventFD())
        } catch {
            throw BlockError("cannot start queue \(index): \(error)")
        }
        let setup = IOEngineSetup(
            image: shared.image, slots: Int(queue.size), helpers: shared.helperCount, kick: kick,
            stop: stopSignal)
        var failure = BlockError("cannot start queue \(index): there is no engine")
        for kind in engines where thread == nil {
            do throws(BlockError) {
                thread = try Self.start(kind, setup, queue, index: index, shared: shared)
            } catch {
                blockLog(.debug, "queue \(index): \(error)")
                failure = error
            }
        }
        if thread == nil { throw failure }
    }

    private static func start(
        _ kind: EngineKind, _ setup: IOEngineSetup, _ queue: Virtqueue, index: Int,
        shared: BlockShared
    ) throws(BlockError) -> Thread {
        switch kind {
        case .ioURing: try run(URingEngine(setup), setup, queue, index: index, shared: shared)
        case .aio: try run(AIOEngine(setup), setup, queue, index: index, shared: shared)
        case .threads: try run(ThreadEngine(setup), setup, queue, index: index, shared: shared)
        case .null:
            try run(ThreadEngine(setup, isNull: true), setup, queue, index: index, shared: shared)
        }
    }

    private static func run<Engine: IOEngine>(
        _ engine: Engine, _ setup: IOEngineSetup, _ queue: Virtqueue, index: Int,
        shared: BlockShared
    ) throws(BlockError) -> Thread {
        // SAFETY: the worker is handed over to the thread; nobody else keeps it.
        nonisolated(unsafe) let worker = BlockWorker(
            queue: queue, engine: engine, shared: shared, stop: setup.stop)
        do throws(SystemError) {
            return try Thread(name: "queue \(index)") {
                shared.queueFilter?.loadOrEnd()
                unsafe worker.run()
            }
        } catch {
            throw BlockError("cannot start queue \(index): \(error)")
        }
    }

    /// Ends the thread once all that was taken from the ring is done, or, abruptly, once nothing of
    /// it is under way.
    func stop(isAbrupt: Bool) -> QueueState {
        stopSignal.send(isAbrupt: isAbrupt)
        thread?.join()
        thread = nil
        return queue.state
    }
}

/// The ways to do I/O.
enum EngineKind: String {
    case ioURing = "io_uring"
    case aio
    case threads
    case null

    /// What to try, in order, for a choice of the user.
    static func candidates(
        _ choice: BlockOptions.Engine, for image: RawImage
    ) throws(BlockError) -> [EngineKind] {
        switch choice {
        case .automatic:
            if image.isInMemory { return [.threads] }
            return [.ioURing] + (image.isDirect ? [.aio] : []) + [.threads]
        case .ioURing: return [.ioURing]
        case .aio:
            // Without direct I/O the kernel does the work inside io_submit, one request at a time.
            guard image.isDirect else { throw BlockError("engine=aio needs direct=on") }
            return [.aio]
        case .threads: return [.threads]
        case .null: return [.null]
        }
    }

    /// Why the host does not let this process use the engine, or `nil` if it does.
    func obstacle(_ image: RawImage) -> BlockError? {
        do throws(BlockError) {
            let kick = try EventWaiter.event()
            let setup = IOEngineSetup(
                image: image, slots: 1, helpers: 0, kick: kick,
                stop: StopSignal(try EventWaiter.event()))
            switch self {
            case .ioURing: try URingEngine(setup).check()
            case .aio: _ = try AIOEngine(setup)
            case .threads, .null: _ = try ThreadEngine(setup)
            }
            return nil
        } catch {
            return error
        }
    }
}
