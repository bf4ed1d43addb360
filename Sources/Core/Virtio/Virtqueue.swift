/// The device's side of a virtqueue, split or packed as the features say (VIRTIO 1.3, sections
/// 2.7 and 2.8).
///
/// The loop that serves a queue is always this:
///
///     repeat {
///         queue.disableNotifications()
///         while try queue.pop(into: chain) {
///             ... work ...
///             queue.push(chain, written: count)
///         }
///         if queue.publish() { setup.call?.signal() }
///     } while queue.enableNotifications()
///
/// Chains may be pushed in any order and much later than they were popped. Whatever the driver does,
/// nothing here traps: a mistake is thrown once, and from then on the queue is broken, which means
/// that it yields no more chains. What was popped before may still be pushed.
///
/// With `setup.inflight` the queue yields first what a process that was killed had taken and not
/// given back, in the order in which it took it.
///
/// A new start, for example after a migration, signals its first batch in any case, because nobody
/// knows what the driver had been told.
// SAFETY: for `@unchecked Sendable`: one thread at a time uses a queue, the one that serves it; who
// hands it on synchronises. `setDirtyLog` may be called from any other thread, because `QueueLog`
// is made for that and `log` and `setup` never change.
public final class Virtqueue: @unchecked Sendable {
    private enum Ring {
        case split(SplitQueue)
        case packed(PackedQueue)
    }

    public let setup: QueueSetup
    /// Entries.
    public let size: UInt16
    /// What broke the queue.
    public private(set) var error: QueueError?

    private let ring: Ring
    private let log: QueueLog

    /// Checks the ring's size, alignment and place in guest memory.
    public init(_ setup: QueueSetup) throws(QueueError) {
        self.setup = setup
        size = setup.layout.size
        log = QueueLog(setup.dirtyLog, usedAddress: setup.usedLogAddress)
        ring =
            setup.features & VirtioFeature.packedRing != 0
            ? .packed(try PackedQueue(setup, log: log)) : .split(try SplitQueue(setup, log: log))
    }

    /// Whether the driver has made a mistake; the queue then yields nothing more.
    public var isBroken: Bool { error != nil }

    /// How far the queue has got. Once all that was popped has been pushed and published, another
    /// queue can go on from here.
    public var state: QueueState {
        switch ring {
        case .split(let queue):
            QueueState(nextAvailable: queue.nextAvailable, nextUsed: queue.nextUsed)
        case .packed(let queue):
            QueueState(nextAvailable: queue.nextAvailable, nextUsed: queue.nextUsed)
        }
    }

    /// Takes the next request.
    /// - Returns: whether there was one.
    /// - Throws: what the driver did wrong, once; the queue is broken from then on, and `chain` is
    ///   not to be used.
    public func pop(into chain: DescriptorChain) throws(QueueError) -> Bool {
        guard error == nil else { return false }
        do {
            switch ring {
            case .split(let queue): return try queue.pop(into: chain)
            case .packed(let queue): return try queue.pop(into: chain)
            }
        } catch {
            self.error = error
            setup.error?.signal()
            throw error
        }
    }

    /// Gives a chain back. The driver sees it after the next `publish`.
    /// - Parameter written: bytes that the device wrote, from the start of the writable buffers.
    public func push(_ chain: DescriptorChain, written: UInt32) {
        if log.isActive { log.markBuffers(chain, written: written) }
        switch ring {
        case .split(let queue): queue.push(chain, written: written)
        case .packed(let queue): queue.push(chain, written: written)
        }
    }

    /// Makes what was pushed visible to the driver.
    /// - Returns: whether the driver wants to be told; the caller then signals `setup.call`.
    public func publish() -> Bool {
        switch ring {
        case .split(let queue): queue.publish()
        case .packed(let queue): queue.publish()
        }
    }

    /// Tells the driver that it need not kick, because the queue is being looked at anyway. A hint:
    /// kicks may come all the same.
    public func disableNotifications() {
        switch ring {
        case .split(let queue): queue.disableNotifications()
        case .packed(let queue): queue.disableNotifications()
        }
    }

    /// Asks the driver for a kick when it adds more.
    /// - Returns: whether more has come in the meantime, for which there may be no kick; look again.
    public func enableNotifications() -> Bool {
        let hasMore =
            switch ring {
            case .split(let queue): queue.enableNotifications()
            case .packed(let queue): queue.enableNotifications()
            }
        return hasMore && !isBroken
    }

    /// Starts, changes or stops (`nil`) the recording of writes to guest memory. Any thread may call
    /// this while another one serves the queue: every push, publish and notification change that
    /// begins after the call is recorded in `log`. One that is under way may still go to the old
    /// log, which therefore stays mapped until the queue has moved on to the new one.
    public func setDirtyLog(_ log: DirtyLog?, usedLogAddress: GuestAddress?) {
        self.log.replace(log, usedAddress: usedLogAddress)
    }
}
