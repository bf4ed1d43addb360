internal import Synchronization

/// The device's side of a split virtqueue (VIRTIO 1.3, section 2.7).
///
///     descriptor area   { addr u64, len u32, flags u16, next u16 } * size
///     driver area       flags u16, idx u16, ring u16 * size, used_event u16
///     device area       flags u16, idx u16, { id u32, len u32 } * size, avail_event u16
///
/// Both indices run freely and wrap at 65536, which every size divides.
final class SplitQueue {
    private let descriptors: RingPart
    private let available: RingPart
    private let used: RingPart
    private let size: UInt16
    private let features: UInt64
    private let log: QueueLog
    private var regions: RegionTable
    private let pieceLimit: Int
    private let inflight: SplitInflight?

    private(set) var nextAvailable: UInt16
    private(set) var nextUsed: UInt16
    /// The driver's index as it was last seen; never behind `nextAvailable`.
    private var availableIndex: UInt16
    /// The used index as the driver sees it.
    private var publishedUsed: UInt16
    /// After a start nobody knows what the driver was told before, so the first batch is signalled.
    private var mustCall = true
    private var notificationsDisabled = false

    private var hasEventIndex: Bool { features & VirtioFeature.eventIndex != 0 }
    private var mask: UInt16 { size &- 1 }
    private var usedEventOffset: Int { 4 + 2 * Int(size) }
    private var availableEventOffset: Int { 4 + 8 * Int(size) }

    init(_ setup: QueueSetup, log: QueueLog) throws(QueueError) {
        let layout = setup.layout
        size = layout.size
        guard size > 0, size <= 32768, size & (size &- 1) == 0 else { throw .invalidSize(size) }
        features = setup.features
        let event = features & VirtioFeature.eventIndex != 0 ? 2 : 0
        let memory = setup.memory
        descriptors = try RingPart(
            .descriptors, layout.descriptors, count: 16 * Int(size), alignment: 16, in: memory)
        available = try RingPart(
            .driver, layout.driver, count: 4 + 2 * Int(size) + event, alignment: 2, in: memory)
        used = try RingPart(
            .device, layout.device, count: 4 + 8 * Int(size) + event, alignment: 4, in: memory)
        if let region = setup.inflight {
            nextUsed = used.loadRelaxed16(2)
            let inflight = try SplitInflight(region, size: size, usedIndex: nextUsed)
            nextAvailable = nextUsed &+ UInt16(inflight.pendingHeads.count)
            self.inflight = inflight
        } else {
            nextAvailable = setup.state.nextAvailable
            nextUsed = setup.state.nextUsed
            inflight = nil
        }
        guard nextAvailable &- nextUsed <= size else { throw .invalidState(setup.state) }
        availableIndex = nextAvailable
        publishedUsed = nextUsed
        self.log = log
        regions = RegionTable(memory)
        pieceLimit = 2 * max(Int(size), DescriptorChain.descriptorLimit)
    }

    // MARK: Taking

    func pop(into chain: DescriptorChain) throws(QueueError) -> Bool {
        if let inflight, let head = inflight.removeFirstPending() {
            try take(head, chain)
            return true
        }
        if availableIndex == nextAvailable, try !lookForMore() { return false }
        guard nextAvailable &- nextUsed < size else { throw .tooManyOutstanding(size: size) }
        let head = available.loadRelaxed16(4 + 2 * Int(nextAvailable & mask))
        guard head < size else { throw .headOutOfRange(head, size: size) }
        try take(head, chain)
        inflight?.taken(head)
        nextAvailable &+= 1
        return true
    }

    @inline(__always)
    private func take(_ head: UInt16, _ chain: DescriptorChain) throws(QueueError) {
        chain.reset()
        chain.id = head
        chain.descriptorCount = 1
        try walk(head, chain)
        let total = chain.readableLength &+ chain.writableLength
        guard total <= 1 << 32 else { throw .chainTooLarge(head: head, byteCount: total) }
        chain.finish()
    }

    /// Reads the driver's index again. Acquire: the entries below it are visible then.
    private func lookForMore() throws(QueueError) -> Bool {
        availableIndex = available.loadAcquiring16(2)
        guard availableIndex &- nextAvailable <= size else {
            throw .availableIndexJumped(to: availableIndex, expected: nextAvailable)
        }
        return availableIndex != nextAvailable
    }

    @inline(__always)
    private func walk(_ head: UInt16, _ chain: DescriptorChain) throws(QueueError) {
        var index = head
        var count: UInt16 = 0
        while true {
            let offset = Int(index) * Descriptor.size
            let descriptor = Descriptor(
                address: descriptors.loadRelaxed64(offset),
                word: descriptors.loadRelaxed64(offset + 8))
            let flags = descriptor.third
            count += 1
            if flags & DescriptorFlag.indirect != 0 {
                chain.descriptorCount = count
                return try walkIndirect(descriptor, chain)
            }
            try chain.append(
                descriptor, isWritable: flags & DescriptorFlag.write != 0, regions: &regions,
                limit: pieceLimit)
            if flags & DescriptorFlag.next == 0 { break }
            index = descriptor.fourth
            guard index < size else { throw .nextOutOfRange(index, count: UInt32(size)) }
            guard count < size else { throw .loop(head: head) }
        }
        chain.descriptorCount = count
    }

    /// The write flag of the descriptor that refers to the table is ignored, as it must be.
    private func walkIndirect(
        _ reference: Descriptor, _ chain: DescriptorChain
    ) throws(QueueError) {
        let head = chain.id
        guard features & VirtioFeature.indirectDescriptors != 0 else {
            throw .indirectNotNegotiated(head: head)
        }
        guard reference.third & DescriptorFlag.next == 0 else {
            throw .indirectInChain(head: head)
        }
        let table = try IndirectTable(reference, regions: &regions)
        let limit = max(Int(size), DescriptorChain.descriptorLimit)
        var index: UInt32 = 0
        var count = 0
        while true {
            let descriptor = try table.load(index, regions: regions)
            let flags = descriptor.third
            guard flags & DescriptorFlag.indirect == 0 else { throw .indirectNested(head: head) }
            try chain.append(
                descriptor, isWritable: flags & DescriptorFlag.write != 0, regions: &regions,
                limit: pieceLimit)
            if flags & DescriptorFlag.next == 0 { return }
            index = UInt32(descriptor.fourth)
            guard index < table.count else {
                throw .nextOutOfRange(descriptor.fourth, count: table.count)
            }
            count += 1
            guard count < table.count else { throw .loop(head: head) }
            guard count < limit else { throw .chainTooLong(head: head, limit: limit) }
        }
    }

    // MARK: Giving back

    func push(_ chain: DescriptorChain, written: UInt32) {
        let offset = 4 + 8 * Int(nextUsed & mask)
        used.storeRelaxed32(offset, UInt32(chain.id))
        used.storeRelaxed32(offset + 4, written)
        nextUsed &+= 1
        inflight?.completing(chain.id)
        if log.isActive { log.markUsed(offset: offset, count: 8) }
    }

    func publish() -> Bool {
        guard nextUsed != publishedUsed else { return false }
        let old = publishedUsed
        publishedUsed = nextUsed
        inflight?.publishing()
        // Release: whoever sees the index sees the entries and the buffers.
        used.storeReleasing16(2, nextUsed)
        inflight?.published(usedIndex: nextUsed)
        if log.isActive { log.markUsed(offset: 2, count: 2) }
        // The driver writes its wish, then reads our index; we write the index, then read the wish.
        // Without the fence both could miss the other's write.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if mustCall {
            mustCall = false
            return true
        }
        if hasEventIndex {
            let event = available.loadRelaxed16(usedEventOffset)
            return passesEvent(event, new: nextUsed, old: old)
        }
        return available.loadRelaxed16(0) & 1 == 0  // VIRTQ_AVAIL_F_NO_INTERRUPT
    }

    // MARK: Notifications

    func disableNotifications() {
        // With event indices the driver's index soon leaves the last wish behind.
        guard !hasEventIndex, !notificationsDisabled else { return }
        notificationsDisabled = true
        used.storeRelaxed16(0, 1)  // VIRTQ_USED_F_NO_NOTIFY
        if log.isActive { log.markUsed(offset: 0, count: 2) }
    }

    func enableNotifications() -> Bool {
        if hasEventIndex {
            used.storeRelaxed16(availableEventOffset, nextAvailable)
            if log.isActive { log.markUsed(offset: availableEventOffset, count: 2) }
        } else {
            notificationsDisabled = false
            used.storeRelaxed16(0, 0)
            if log.isActive { log.markUsed(offset: 0, count: 2) }
        }
        // As in `publish`: our wish must be out before the driver's index is read.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let isPending = inflight.map { !$0.pendingHeads.isEmpty } ?? false
        return available.loadAcquiring16(2) != nextAvailable || isPending
    }
}
