internal import Synchronization

/// The device's side of a packed virtqueue (VIRTIO 1.3, section 2.8).
///
///     descriptor area   { addr u64, len u32, id u16, flags u16 } * size
///     driver area       event suppression: offset and wrap u16, flags u16
///     device area       the same, written by the device
///
/// One ring serves both directions. Each side keeps a position and a wrap counter that flips at the
/// end of the ring; a descriptor is available if its AVAIL bit equals the counter and its USED bit
/// does not, and used if both equal it.
struct PackedQueue: ~Copyable {
    private enum EventFlag {
        static let enable: UInt32 = 0  // RING_EVENT_FLAGS_ENABLE
        static let disable: UInt32 = 1  // RING_EVENT_FLAGS_DISABLE
        static let descriptor: UInt32 = 2  // RING_EVENT_FLAGS_DESC
    }

    let ring: RingPart
    private let driverEvent: RingPart
    private let deviceEvent: RingPart
    let size: UInt16
    let features: UInt64
    private let deviceEventAddress: GuestAddress
    var regions: RegionTable
    let pieceLimit: Int
    let inflight: PackedInflight?
    /// The descriptors of the request that is being popped, if they are to be noted.
    var noted: [Descriptor] = []

    var available: PackedPosition
    private var used: PackedPosition
    /// Descriptors between `used` and `available`.
    var outstanding: UInt16
    /// Descriptors given back since the last publish, and the first of them: its place and its
    /// flags' word, which is written last so that the driver sees the batch at once.
    private var batched: UInt16 = 0
    private var firstOffset = 0
    private var firstWord: UInt64 = 0
    private var mustCall = true
    private var notificationsDisabled = false

    private var hasEventIndex: Bool { features & VirtioFeature.eventIndex != 0 }

    var nextAvailable: UInt16 { available.raw }
    var nextUsed: UInt16 { used.raw }

    /// - Parameter log: where to record what has to be put right at once.
    init(_ setup: QueueSetup, log: QueueLog?) throws(QueueError) {
        // Everything that can fail comes first: a noncopyable value cannot be half made.
        let layout = setup.layout
        let size = layout.size
        guard size > 0, size <= 32768 else { throw .invalidSize(size) }
        let memory = setup.memory
        let ring = try RingPart(
            .descriptors, layout.descriptors, count: 16 * Int(size), alignment: 16, in: memory)
        let driverEvent = try RingPart(.driver, layout.driver, count: 4, alignment: 4, in: memory)
        let deviceEvent = try RingPart(.device, layout.device, count: 4, alignment: 4, in: memory)
        var available = PackedPosition(setup.state.nextAvailable)
        var used = PackedPosition(setup.state.nextUsed)
        var inflight: PackedInflight?
        if let region = setup.inflight {
            let found = try PackedInflight(
                region, size: size, nextUsed: setup.state.nextUsed,
                flagsAt: { ring.loadRelaxed16(Int($0) * Descriptor.size + 14) })
            used = PackedPosition(found.nextUsed)
            available = used
            available.advance(found.pendingDescriptors, size: size)
            inflight = found
        }
        guard let outstanding = used.distance(to: available, size: size) else {
            throw .invalidState(QueueState(nextAvailable: available.raw, nextUsed: used.raw))
        }

        self.size = size
        features = setup.features
        self.ring = ring
        self.driverEvent = driverEvent
        self.deviceEvent = deviceEvent
        deviceEventAddress = layout.device
        self.available = available
        self.used = used
        self.outstanding = outstanding
        self.inflight = inflight
        if inflight != nil { noted.reserveCapacity(32) }
        regions = RegionTable(setup)
        pieceLimit = 2 * max(Int(size), ChainStorage.descriptorLimit)
        if let inflight { retractUnpublished(inflight.pendingDescriptors, log) }
    }

    /// A process that died in the middle of a batch may have left used descriptors behind the one
    /// whose turn it is, where the driver would believe them later. They become available again.
    private func retractUnpublished(_ count: UInt16, _ log: QueueLog?) {
        var place = used
        for _ in 0..<count {
            let offset = Int(place.index) * Descriptor.size + 14
            let others = ring.loadRelaxed16(offset) & 0x7f7f
            ring.storeReleasing16(offset, others | (place.wrap == 0 ? 0x8000 : 0x0080))
            if let log { log.markUsed(offset: offset, count: 2) }
            place.advance(1, size: size)
        }
    }

    // MARK: Giving back

    /// The chain is not changed; `inout` because what is borrowed through a pointer is copied.
    mutating func push(_ chain: inout ChainStorage, written: UInt32, log: QueueLog?) {
        // More than is outstanding can only come from a mistake of ours or a broken ring; the
        // positions stay inside the ring all the same.
        let count = chain.descriptorCount
        let both = used.wrap | used.wrap >> 8  // AVAIL and USED
        let flags = both | (written > 0 ? DescriptorFlag.write : 0)
        let word = UInt64(written) | UInt64(chain.id) << 32 | UInt64(flags) << 48
        let offset = Int(used.index) * Descriptor.size
        if batched == 0 {
            firstOffset = offset
            firstWord = word
        } else {
            ring.storeReleasing64(offset + 8, word)
            if let log { log.markUsed(offset: offset + 8, count: 8) }
        }
        batched &+= count
        inflight?.completing(chain.inflightEntry)
        outstanding &-= min(count, outstanding)
        used.advance(count, size: size)
    }

    mutating func publish(log: QueueLog?) -> Bool {
        guard batched > 0 else { return false }
        inflight?.publishing(nextUsed: used.raw)
        // Release: whoever sees these flags sees the rest of the batch and the buffers.
        ring.storeReleasing64(firstOffset + 8, firstWord)
        inflight?.published()
        if let log { log.markUsed(offset: firstOffset + 8, count: 8) }
        let count = batched
        batched = 0
        // As for the split ring: descriptor out, then read the driver's wish.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if mustCall {
            mustCall = false
            return true
        }
        // One load for the wish and its place, so that they belong together.
        let event = driverEvent.loadRelaxed32(0)
        switch event >> 16 & 3 {
        case EventFlag.disable: return false
        case EventFlag.descriptor where hasEventIndex:
            let raw = UInt16(truncatingIfNeeded: event)
            var place = raw & 0x7fff
            // Relative to the lap that we are in now, an event with the other counter is one back.
            if raw & 0x8000 != used.wrap { place &-= size }
            return passesEvent(place, new: used.index, old: used.index &- count)
        default: return true
        }
    }

    /// What was taken lies in the ring as the driver has put it there, but for what a process that
    /// was killed has overwritten; of that there are copies.
    mutating func rewind(log: QueueLog?) {
        if let inflight {
            var place = used
            for request in inflight.outstanding(size: size) {
                for descriptor in request.descriptors {
                    restore(descriptor, at: place.index, log)
                    place.advance(1, size: size)
                }
            }
            inflight.forget()
        }
        available = used
        outstanding = 0
    }

    private func restore(_ descriptor: Descriptor, at index: UInt16, _ log: QueueLog?) {
        let offset = Int(index) * Descriptor.size
        guard ring.loadRelaxed64(offset + 8) != descriptor.word else { return }
        ring.storeReleasing64(offset + 8, descriptor.word)
        if let log { log.markUsed(offset: offset + 8, count: 8) }
    }

    // MARK: Notifications

    mutating func disableNotifications(log: QueueLog?) {
        guard !notificationsDisabled else { return }
        notificationsDisabled = true
        storeEvent(EventFlag.disable << 16, log)
    }

    mutating func enableNotifications(log: QueueLog?) -> Bool {
        notificationsDisabled = false
        storeEvent(
            hasEventIndex
                ? UInt32(available.raw) | EventFlag.descriptor << 16 : EventFlag.enable << 16, log)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return hasAvailable
    }

    /// Whether there is something to pop.
    var hasAvailable: Bool {
        let word = ring.loadAcquiring64(Int(available.index) * Descriptor.size + 8)
        let isPending = inflight.map { $0.pendingCount > 0 } ?? false
        return isAvailable(UInt16(truncatingIfNeeded: word >> 48)) || isPending
    }

    func hasAvailable(_ count: Int) -> Bool {
        guard count > 0, count <= Int(size &- outstanding) else { return count <= 0 }
        var place = available
        place.advance(UInt16(count - 1), size: size)
        let flags = ring.loadRelaxed16(Int(place.index) * Descriptor.size + 14)
        return Self.isAvailable(flags, wrap: place.wrap)
    }

    private func storeEvent(_ value: UInt32, _ log: QueueLog?) {
        deviceEvent.storeRelaxed32(0, value)
        if let log { log.markDeviceEvent(deviceEventAddress) }
    }
}
