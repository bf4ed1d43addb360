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
/// Chains may be pushed in any order and much later than they were popped. Whatever the driver
/// does, nothing here traps: a mistake is thrown once, and from then on the queue is broken, which
/// means that it yields no more chains. What was popped before may still be pushed.
///
/// With `setup.inflight` the queue yields first what a process that was killed had taken and not
/// given back, in the order in which it took it.
///
/// A new start, for example after a migration, signals its first batch in any case, because nobody
/// knows what the driver had been told.
// SAFETY: for `@unchecked Sendable`: one thread at a time uses a queue, the one that serves it; who
// hands it on synchronises.
public final class Virtqueue: @unchecked Sendable {
    /// The rings are structs behind pointers, for the reason that `ChainStorage` gives.
    // SAFETY: the pointee belongs to the queue, which makes it in `init` and ends it in `deinit`.
    @safe private enum Ring {
        case split(UnsafeMutablePointer<SplitQueue>)
        case packed(UnsafeMutablePointer<PackedQueue>)
    }

    public let setup: QueueSetup
    /// Entries.
    public let size: UInt16
    /// What broke the queue.
    public var error: QueueError? { failure }

    private var failure: QueueError?
    private let ring: Ring
    private let log: QueueLog?

    /// Checks the ring's size, alignment and place in guest memory.
    public init(_ setup: QueueSetup) throws(QueueError) {
        self.setup = setup
        size = setup.layout.size
        log = QueueLog(setup)
        if setup.features & VirtioFeature.packedRing != 0 {
            let queue = try PackedQueue(setup, log: log)
            let place = UnsafeMutablePointer<PackedQueue>.allocate(capacity: 1)
            unsafe place.initialize(to: queue)
            ring = unsafe .packed(place)
        } else {
            let queue = try SplitQueue(setup)
            let place = UnsafeMutablePointer<SplitQueue>.allocate(capacity: 1)
            unsafe place.initialize(to: queue)
            ring = unsafe .split(place)
        }
    }

    deinit {
        switch ring {
        case .split(let queue):
            unsafe queue.deinitialize(count: 1)
            unsafe queue.deallocate()
        case .packed(let queue):
            unsafe queue.deinitialize(count: 1)
            unsafe queue.deallocate()
        }
    }

    /// Whether the driver has made a mistake; the queue then yields nothing more.
    public var isBroken: Bool { failure != nil }

    /// How far the queue has got. Once all that was popped has been pushed and published, another
    /// queue can go on from here.
    public var state: QueueState {
        switch ring {
        case .split(let queue):
            unsafe QueueState(
                nextAvailable: queue.pointee.nextAvailable, nextUsed: queue.pointee.nextUsed)
        case .packed(let queue):
            unsafe QueueState(
                nextAvailable: queue.pointee.nextAvailable, nextUsed: queue.pointee.nextUsed)
        }
    }

    /// Takes the next request.
    /// - Returns: whether there was one.
    /// - Throws: what the driver did wrong, once; the queue is broken from then on, and `chain` is
    ///   not to be used.
    public func pop(into chain: DescriptorChain) throws(QueueError) -> Bool {
        try unsafe pop(into: chain.storage)
    }

    /// Likewise, without counting references: whoever has made the chain keeps it.
    // SAFETY: for the caller: the chain exists during the call.
    @unsafe public func pop(into chain: Unmanaged<DescriptorChain>) throws(QueueError) -> Bool {
        try unsafe pop(into: chain._withUnsafeGuaranteedRef { unsafe $0.storage })
    }

    /// Takes up to `limit` requests, in the ring's order, each to a chain of its own. What the driver
    /// shares with us is fetched for all of them at once, which is sooner than for each, and so are the
    /// beginnings of the buffers.
    /// - Returns: how many there were, or are before one that is wrong: that is thrown next time.
    // SAFETY: for the caller: there are `limit` chains, which exist during the call.
    @unsafe public func pop(
        into chains: UnsafePointer<Unmanaged<DescriptorChain>>, limit: Int
    ) throws(QueueError) -> Int {
        guard failure == nil else { return 0 }
        do throws(QueueError) {
            switch ring {
            case .split(let queue): return try unsafe queue.pointee.pop(into: chains, limit: limit)
            case .packed(let queue): return try unsafe queue.pointee.pop(into: chains, limit: limit)
            }
        } catch {
            if rests(error) { return 0 }
            throw fail(error)
        }
    }

    @inline(__always)
    private func pop(into chain: UnsafeMutablePointer<ChainStorage>) throws(QueueError) -> Bool {
        guard failure == nil else { return false }
        do throws(QueueError) {
            switch ring {
            case .split(let queue): return try unsafe queue.pointee.pop(into: &chain.pointee)
            case .packed(let queue): return try unsafe queue.pointee.pop(into: &chain.pointee)
            }
        } catch {
            if rests(error) { return false }
            throw fail(error)
        }
    }

    /// Whether a stop has ended a wait for a translation, which is nobody's error, and nothing was
    /// taken. The queue takes no more until it is stopped, as if it were broken: who looked again would
    /// ask again, without end.
    private func rests(_ error: QueueError) -> Bool {
        guard setup.iotlb?.isOver == true else { return false }
        failure = error
        return true
    }

    private func fail(_ error: QueueError) -> QueueError {
        failure = error
        setup.error?.signalIfRoom()
        return error
    }

    /// Gives a chain back. The driver sees it after the next `publish`.
    /// - Parameter written: bytes that the device wrote, from the start of the writable buffers.
    public func push(_ chain: DescriptorChain, written: UInt32) {
        unsafe push(chain.storage, written: written)
    }

    /// Likewise, without counting references.
    // SAFETY: for the caller: the chain exists during the call.
    @unsafe public func push(_ chain: Unmanaged<DescriptorChain>, written: UInt32) {
        unsafe push(chain._withUnsafeGuaranteedRef { unsafe $0.storage }, written: written)
    }

    @inline(__always)
    private func push(_ chain: UnsafeMutablePointer<ChainStorage>, written: UInt32) {
        if let log { unsafe log.markBuffers(&chain.pointee, written: written) }
        switch ring {
        case .split(let queue):
            unsafe queue.pointee.push(&chain.pointee, written: written, log: log)
        case .packed(let queue):
            unsafe queue.pointee.push(&chain.pointee, written: written, log: log)
        }
    }

    /// Makes what was popped and not pushed available again: the next pop yields it once more. For
    /// devices that push in the order in which they pop. All that was pushed has been published.
    public func rewind() {
        defer { log?.announce() }
        switch ring {
        case .split(let queue): unsafe queue.pointee.rewind()
        case .packed(let queue): unsafe queue.pointee.rewind(log: log)
        }
    }

    /// Makes what was pushed visible to the driver.
    /// - Returns: whether the driver wants to be told; the caller then signals `setup.call`.
    public func publish() -> Bool {
        defer { log?.announce() }
        return switch ring {
        case .split(let queue): unsafe queue.pointee.publish(log: log)
        case .packed(let queue): unsafe queue.pointee.publish(log: log)
        }
    }

    /// Tells the driver that it need not kick, because the queue is being looked at anyway. A hint:
    /// kicks may come all the same.
    public func disableNotifications() {
        defer { log?.announce() }
        switch ring {
        case .split(let queue): unsafe queue.pointee.disableNotifications(log: log)
        case .packed(let queue): unsafe queue.pointee.disableNotifications(log: log)
        }
    }

    /// Asks the driver for a kick when it adds more.
    /// - Returns: whether more has come in the meantime, for which there may be no kick; look
    ///   again.
    public func enableNotifications() -> Bool {
        defer { log?.announce() }
        let hasMore =
            switch ring {
            case .split(let queue): unsafe queue.pointee.enableNotifications(log: log)
            case .packed(let queue): unsafe queue.pointee.enableNotifications(log: log)
            }
        return hasMore && !isBroken
    }

    /// Whether there is something to pop, for who looks again and again while notifications are
    /// disabled.
    public var hasAvailable: Bool {
        if isBroken { return false }
        return switch ring {
        case .split(let queue): unsafe queue.pointee.hasAvailable
        case .packed(let queue): unsafe queue.pointee.hasAvailable
        }
    }

    /// Whether at least so many requests wait, about: in a packed ring those of several descriptors
    /// count as several.
    public func hasAvailable(_ count: Int) -> Bool {
        if isBroken { return false }
        return switch ring {
        case .split(let queue): unsafe queue.pointee.hasAvailable(count)
        case .packed(let queue): unsafe queue.pointee.hasAvailable(count)
        }
    }
}
