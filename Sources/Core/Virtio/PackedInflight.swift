/// Keeps a packed queue's `InflightRegion`. The ring's descriptors are overwritten by used ones, so
/// this holds copies of them, in lists of entries: those of a request, and one of free entries. The
/// lists' links live in this process too, so the shared memory is read only once, when a queue
/// starts.
///
/// Everything that a batch changes is noted twice, as new and as `old`; `old` follows once the
/// driver has seen the batch. A process that finds the two different takes one of them as a whole.
final class PackedInflight {
    enum Place {
        static let freeHead = 12
        static let oldFreeHead = 14
        static let usedIndex = 16
        static let oldUsedIndex = 18
        static let usedWrap = 20
        static let oldUsedWrap = 21
        /// The four fields above, which are written with one store each time: a position is only
        /// right together with its wrap counter.
        static let positions = 16
        static func entry(_ index: UInt16) -> Int { 32 + 32 * Int(index) }
        static let inflight = 0
        static let next = 2
        static let last = 4
        static let num = 6
        static let counter = 8
        static let id = 16
        static let flags = 18
        static let length = 20
        static let address = 24
    }

    /// A request that another process took and did not give back.
    struct Pending {
        let entry: UInt16
        let descriptors: [Descriptor]
    }

    private let region: InflightRegion
    /// What was taken first comes last.
    private var pending: [Pending] = []
    /// Descriptors of the ring that the pending requests take up.
    private(set) var pendingDescriptors: UInt16 = 0
    /// Where the next used descriptor goes: bits 0-14 the position, bit 15 the wrap counter.
    private(set) var nextUsed: UInt16

    private var freeHead: UInt16 = 0
    private var next: [UInt16]
    private var last: [UInt16]
    private var counter: UInt64 = 0
    private var batch: [UInt16] = []

    /// Finds out what is pending.
    /// - Parameters:
    ///   - nextUsed: where a queue starts that has no history here.
    ///   - flagsAt: reads the flags of the ring's descriptor at a position below `size`.
    init(
        _ region: InflightRegion, size: UInt16, nextUsed: UInt16, flagsAt: (UInt16) -> UInt16
    ) throws(QueueError) {
        guard region.isPacked, size <= region.entries else { throw .inflightTooSmall(size: size) }
        self.region = region
        self.nextUsed = nextUsed
        // All entries are free, one after the other.
        next = (0..<region.entries).map { $0 + 1 }
        last = Array(0..<region.entries)
        batch.reserveCapacity(Int(size))
        guard region.isReadable else {
            initialise()
            return
        }
        try settleLastBatch(size: size, flagsAt: flagsAt)
        for index in 0..<region.entries {
            next[Int(index)] = region.load16(Place.entry(index) + Place.next)
        }
        clearFreeEntries()
        try findPending(size: size)
    }

    private func initialise() {
        region.initialise {
            for index in 0..<region.entries {
                region.store64(Place.entry(index), 0)
                region.store16(Place.entry(index) + Place.next, index + 1)
            }
            settle()
        }
    }

    /// - Parameter old: what `old_used_idx` and its wrap counter are to be.
    private func storePositions(old: UInt16) {
        let word =
            UInt64(nextUsed & 0x7fff) | UInt64(old & 0x7fff) << 16 | UInt64(nextUsed >> 15) << 32
            | UInt64(old >> 15) << 40
        region.store64(Place.positions, word)
    }

    /// Old follows current.
    private func settle() {
        region.store16(Place.freeHead, freeHead)
        region.store16(Place.oldFreeHead, freeHead)
        storePositions(old: nextUsed)
    }

    /// Decides whether the driver has seen the last batch, and makes current and old agree.
    private func settleLastBatch(
        size: UInt16, flagsAt: (UInt16) -> UInt16
    ) throws(QueueError) {
        func position(_ index: Int, _ wrap: Int) -> UInt16 {
            region.load16(index) & 0x7fff | UInt16(region.load8(wrap) & 1) << 15
        }
        let current = position(Place.usedIndex, Place.usedWrap)
        let old = position(Place.oldUsedIndex, Place.oldUsedWrap)
        guard old & 0x7fff < size, current & 0x7fff < size else {
            throw .inflightInvalid("used index \(old & 0x7fff) of \(size)")
        }
        nextUsed = old
        freeHead = region.load16(Place.oldFreeHead)
        if current != old {
            // The first descriptor of a batch is written last; while it still is available, the
            // driver has seen nothing of it.
            let flags = flagsAt(old & 0x7fff)
            let wrap = old & 0x8000
            let isAvailable =
                (flags << 8) & 0x8000 == wrap && flags & DescriptorFlag.used != wrap
            if !isAvailable {
                nextUsed = current
                freeHead = region.load16(Place.freeHead)
            }
        }
        settle()
    }

    /// What is on the free list is not in flight, whatever its mark says.
    private func clearFreeEntries() {
        var index = freeHead
        var count: UInt16 = 0
        while index < region.entries, count < region.entries {
            region.store8(Place.entry(index) + Place.inflight, 0)
            index = next[Int(index)]
            count += 1
        }
    }

    private func findPending(size: UInt16) throws(QueueError) {
        var found: [(entry: UInt16, counter: UInt64)] = []
        for index in 0..<region.entries {
            guard region.load8(Place.entry(index) + Place.inflight) == 1 else { continue }
            found.append((index, region.load64(Place.entry(index) + Place.counter)))
        }
        found.sort { $0.counter < $1.counter }
        counter = found.last.map { $0.counter &+ 1 } ?? 0
        for (entry, _) in found {
            let descriptors = try readList(entry, limit: size &- pendingDescriptors)
            pendingDescriptors &+= UInt16(descriptors.count)
            pending.append(Pending(entry: entry, descriptors: descriptors))
        }
        pending.reverse()
    }

    private func readList(_ head: UInt16, limit: UInt16) throws(QueueError) -> [Descriptor] {
        let count = region.load16(Place.entry(head) + Place.num)
        guard count >= 1, count <= limit else {
            throw .inflightInvalid("entry \(head) has \(count) descriptors")
        }
        var descriptors: [Descriptor] = []
        var index = head
        for position in 0..<count {
            if position > 0 { index = next[Int(index)] }
            guard index < region.entries else {
                throw .inflightInvalid("entry \(head) leads to \(index)")
            }
            let place = Place.entry(index)
            let word =
                UInt64(region.load32(place + Place.length))
                | UInt64(region.load16(place + Place.id)) << 32
                | UInt64(region.load16(place + Place.flags)) << 48
            descriptors.append(
                Descriptor(address: region.load64(place + Place.address), word: word))
        }
        last[Int(head)] = index
        return descriptors
    }

    var hasPending: Bool { !pending.isEmpty }

    /// The next pending request is taken over; it is noted already.
    func removeFirstPending() -> Pending? { pending.popLast() }

    /// All requests that have been taken, or are still to be taken over, in that order.
    func outstanding(size: UInt16) -> [Pending] {
        pending = []
        pendingDescriptors = 0
        // The memory is shared: what cannot be read any more is lost.
        try? findPending(size: size)
        defer { pending = [] }
        return pending.reversed()
    }

    /// Nothing is in flight any more.
    func forget() {
        pending = []
        pendingDescriptors = 0
        freeHead = 0
        next = (0..<region.entries).map { $0 + 1 }
        initialise()
    }

    /// How many requests are still to be taken over.
    var pendingCount: Int { pending.count }

    /// A request was taken from the ring. All that was completed before has been published.
    /// - Returns: where it is noted.
    func taken(_ descriptors: [Descriptor]) -> UInt16 {
        let head = freeHead
        var index = head
        for descriptor in descriptors {
            // There are at least as many entries as the ring has descriptors.
            guard index < region.entries else { break }
            let place = Place.entry(index)
            region.store64(place + Place.address, descriptor.address)
            region.store32(place + Place.length, descriptor.length)
            region.store16(place + Place.id, descriptor.third)
            region.store16(place + Place.flags, descriptor.fourth)
            last[Int(head)] = index
            index = next[Int(index)]
        }
        guard head < region.entries else { return head }
        let place = Place.entry(head)
        region.store16(place + Place.last, last[Int(head)])
        region.store16(place + Place.num, UInt16(truncatingIfNeeded: descriptors.count))
        region.store64(place + Place.counter, counter)
        counter &+= 1
        region.store8(place + Place.inflight, 1)
        freeHead = index
        region.store16(Place.freeHead, freeHead)
        region.store16(Place.oldFreeHead, freeHead)
        return head
    }

    /// A request was put into the ring, but the driver does not see it yet.
    func completing(_ entry: UInt16) {
        if entry < region.entries { batch.append(entry) }
    }

    /// The batch is about to become visible; the next used descriptor goes to `nextUsed`.
    func publishing(nextUsed: UInt16) {
        for entry in batch {
            let end = last[Int(entry)]
            next[Int(end)] = freeHead
            region.store16(Place.entry(end) + Place.next, freeHead)
            freeHead = entry
        }
        region.store16(Place.freeHead, freeHead)
        let old = self.nextUsed
        self.nextUsed = nextUsed
        storePositions(old: old)
    }

    /// The batch has become visible.
    func published() {
        for entry in batch { region.store8(Place.entry(entry) + Place.inflight, 0) }
        region.store16(Place.oldFreeHead, freeHead)
        storePositions(old: nextUsed)
        batch.removeAll(keepingCapacity: true)
    }
}
