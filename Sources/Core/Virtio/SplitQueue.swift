internal import Synchronization

/// The device's side of a split virtqueue (VIRTIO 1.3, section 2.7).
///
///     descriptor area   { addr u64, len u32, flags u16, next u16 } * size
///     driver area       flags u16, idx u16, ring u16 * size, used_event u16
///     device area       flags u16, idx u16, { id u32, len u32 } * size, avail_event u16
///
/// Both indices run freely and wrap at 65536, which every size divides.
struct SplitQueue: ~Copyable {
    private let descriptors: RingPart
    private let available: RingPart
    private let used: RingPart
    private let size: UInt16
    private let features: UInt64
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

    init(_ setup: QueueSetup) throws(QueueError) {
        // Everything that can fail comes first: a noncopyable value cannot be half made.
        let layout = setup.layout
        let size = layout.size
        guard size > 0, size <= 32768, size & (size &- 1) == 0 else { throw .invalidSize(size) }
        let event = setup.features & VirtioFeature.eventIndex != 0 ? 2 : 0
        let memory = setup.memory
        let descriptors = try RingPart(
            .descriptors, layout.descriptors, count: 16 * Int(size), alignment: 16, in: memory)
        let available = try RingPart(
            .driver, layout.driver, count: 4 + 2 * Int(size) + event, alignment: 2, in: memory)
        let used = try RingPart(
            .device, layout.device, count: 4 + 8 * Int(size) + event, alignment: 4, in: memory)
        var state = setup.state
        var inflight: SplitInflight?
        if let region = setup.inflight {
            state.nextUsed = used.loadRelaxed16(2)
            let found = try SplitInflight(region, size: size, usedIndex: state.nextUsed)
            state.nextAvailable = state.nextUsed &+ UInt16(found.pendingCount)
            inflight = found
        }
        guard state.nextAvailable &- state.nextUsed <= size else { throw .invalidState(state) }

        self.size = size
        features = setup.features
        self.descriptors = descriptors
        self.available = available
        self.used = used
        self.inflight = inflight
        nextAvailable = state.nextAvailable
        nextUsed = state.nextUsed
        availableIndex = state.nextAvailable
        publishedUsed = state.nextUsed
        regions = RegionTable(setup)
        pieceLimit = 2 * max(Int(size), ChainStorage.descriptorLimit)
    }

    // MARK: Taking

    mutating func pop(into chain: inout ChainStorage) throws(QueueError) -> Bool {
        if let inflight, let head = inflight.removeFirstPending() {
            try take(head, &chain)
            return true
        }
        if availableIndex == nextAvailable, try !lookForMore() { return false }
        guard nextAvailable &- nextUsed < size else { throw .tooManyOutstanding(size: size) }
        let head = available.loadRelaxed16(4 + 2 * Int(nextAvailable & mask))
        guard head < size else { throw .headOutOfRange(head, size: size) }
        try take(head, &chain)
        inflight?.taken(head)
        nextAvailable &+= 1
        return true
    }

    /// Takes up to `limit` requests, each to a chain of its own. One that is wrong ends the batch before
    /// it, unless it is the first. Nothing of it has been used then, and all of it is read anew.
    ///
    /// Heads, descriptors and used entries are memory that the driver's processor has: they are
    /// fetched all at once.
    mutating func pop(
        into chains: UnsafePointer<Unmanaged<DescriptorChain>>, limit: Int
    ) throws(QueueError) -> Int {
        if limit < 2 || inflight.map({ $0.pendingCount > 0 }) == true {
            guard limit > 0 else { return 0 }
            let storage = unsafe chains[0]._withUnsafeGuaranteedRef { unsafe $0.storage }
            return try unsafe pop(into: &storage.pointee) ? 1 : 0
        }
        if availableIndex == nextAvailable, try !lookForMore() { return 0 }
        let room = size &- (nextAvailable &- nextUsed)
        guard room > 0 else { throw .tooManyOutstanding(size: size) }
        let most = min(limit, Int(min(availableIndex &- nextAvailable, room)))
        let count = try unsafe takeHeads(chains, most)
        for index in 0..<count {
            let storage = unsafe chains[index]._withUnsafeGuaranteedRef { unsafe $0.storage }
            do throws(QueueError) {
                let head = unsafe storage.pointee.id
                try unsafe take(head, &storage.pointee)
                inflight?.taken(head)
            } catch {
                if index == 0 { throw error }
                return index
            }
            nextAvailable &+= 1
            unsafe storage.pointee.prefetch()
        }
        return count
    }

    /// Reads the next heads to the chains' `id`.
    /// - Returns: how many of them are heads.
    @inline(__always)
    private func takeHeads(
        _ chains: UnsafePointer<Unmanaged<DescriptorChain>>, _ most: Int
    ) throws(QueueError) -> Int {
        for index in 0..<most {
            let place = Int((nextAvailable &+ UInt16(truncatingIfNeeded: index)) & mask)
            let head = available.loadRelaxed16(4 + 2 * place)
            guard head < size else {
                if index == 0 { throw .headOutOfRange(head, size: size) }
                return index
            }
            descriptors.prefetch(Int(head) * Descriptor.size)
            // Each line once: eight entries.
            if index & 7 == 0 { used.prefetchWrite(4 + 8 * place) }
            unsafe chains[index]._withUnsafeGuaranteedRef { unsafe $0.storage.pointee.id = head }
        }
        return most
    }

    @inline(__always)
    private mutating func take(_ head: UInt16, _ chain: inout ChainStorage) throws(QueueError) {
        chain.reset()
        chain.id = head
        chain.descriptorCount = 1
        try walk(head, &chain)
        let total = chain.readableLength &+ chain.writableLength
        guard total <= 1 << 32 else { throw .chainTooLarge(head: head, byteCount: total) }
        chain.finish()
    }

    /// Reads the driver's index again. Acquire: the entries below it are visible then.
    private mutating func lookForMore() throws(QueueError) -> Bool {
        availableIndex = available.loadAcquiring16(2)
        guard availableIndex &- nextAvailable <= size else {
            throw .availableIndexJumped(to: availableIndex, expected: nextAvailable)
        }
        return availableIndex != nextAvailable
    }

    @inline(__always)
    private mutating func walk(_ head: UInt16, _ chain: inout ChainStorage) throws(QueueError) {
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
                return try walkIndirect(descriptor, &chain)
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
    private mutating func walkIndirect(
        _ reference: Descriptor, _ chain: inout ChainStorage
    ) throws(QueueError) {
        let head = chain.id
        guard features & VirtioFeature.indirectDescriptors != 0 else {
            throw .indirectNotNegotiated(head: head)
        }
        guard reference.third & DescriptorFlag.next == 0 else {
            throw .indirectInChain(head: head)
        }
        let table = try IndirectTable(reference, regions: &regions)
        let limit = max(Int(size), ChainStorage.descriptorLimit)
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

    /// The chain is not changed; `inout` because what is borrowed through a pointer is copied.
    mutating func push(_ chain: inout ChainStorage, written: UInt32, log: QueueLog?) {
        let offset = 4 + 8 * Int(nextUsed & mask)
        used.storeRelaxed32(offset, UInt32(chain.id))
        used.storeRelaxed32(offset + 4, written)
        nextUsed &+= 1
        inflight?.completing(chain.id)
        if let log { log.markUsed(offset: offset, count: 8) }
    }

    mutating func publish(log: QueueLog?) -> Bool {
        guard nextUsed != publishedUsed else { return false }
        let old = publishedUsed
        publishedUsed = nextUsed
        inflight?.publishing()
        // Release: whoever sees the index sees the entries and the buffers.
        used.storeReleasing16(2, nextUsed)
        inflight?.published(usedIndex: nextUsed)
        if let log { log.markUsed(offset: 2, count: 2) }
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

    /// The available ring still has what was taken, from where the used index is.
    mutating func rewind() {
        nextAvailable = nextUsed
        inflight?.forget(usedIndex: nextUsed)
    }

    // MARK: Notifications

    mutating func disableNotifications(log: QueueLog?) {
        guard !notificationsDisabled else { return }
        notificationsDisabled = true
        if hasEventIndex {
            // The driver's index has left this wish behind already.
            used.storeRelaxed16(availableEventOffset, nextAvailable &- 1)
            if let log { log.markUsed(offset: availableEventOffset, count: 2) }
            return
        }
        used.storeRelaxed16(0, 1)  // VIRTQ_USED_F_NO_NOTIFY
        if let log { log.markUsed(offset: 0, count: 2) }
    }

    mutating func enableNotifications(log: QueueLog?) -> Bool {
        notificationsDisabled = false
        if hasEventIndex {
            used.storeRelaxed16(availableEventOffset, nextAvailable)
            if let log { log.markUsed(offset: availableEventOffset, count: 2) }
        } else {
            used.storeRelaxed16(0, 0)
            if let log { log.markUsed(offset: 0, count: 2) }
        }
        // As in `publish`: our wish must be out before the driver's index is read.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return hasAvailable
    }

    /// Whether there is something to pop.
    var hasAvailable: Bool {
        let isPending = inflight.map { $0.pendingCount > 0 } ?? false
        return available.loadAcquiring16(2) != nextAvailable || isPending
    }

    func hasAvailable(_ count: Int) -> Bool {
        Int(available.loadAcquiring16(2) &- nextAvailable) >= count
    }
}
