/// Keeps a split queue's `InflightRegion`. What it needs to decide lives in this process; the
/// shared memory is read only once, when a queue starts.
final class SplitInflight {
    private enum Place {
        static let lastBatchHead = 12
        static let usedIndex = 14
        static func entry(_ index: UInt16) -> Int { 16 + 16 * Int(index) }
        static let inflight = 0
        static let next = 6
        static let counter = 8
    }

    private let region: InflightRegion
    /// What another process took and did not give back; what it took first comes last.
    private var pendingHeads: [UInt16] = []
    private var counter: UInt64 = 0
    private var lastBatchHead: UInt16
    private var batch: [UInt16] = []

    /// Finds out what is pending.
    /// - Parameter usedIndex: the used ring's index, which is the truth about what the driver saw.
    init(_ region: InflightRegion, size: UInt16, usedIndex: UInt16) throws(QueueError) {
        guard !region.isPacked, size <= region.entries else { throw .inflightTooSmall(size: size) }
        self.region = region
        lastBatchHead = region.load16(Place.lastBatchHead)
        batch.reserveCapacity(Int(size))
        // A gap that is longer than the region is not the last batch of a process that died: the
        // ring was set up anew since.
        let gap = usedIndex &- region.load16(Place.usedIndex)
        guard region.isReadable, gap <= region.entries else {
            initialise(usedIndex: usedIndex)
            return
        }
        if gap != 0 { finishLastBatch(count: gap, usedIndex: usedIndex) }
        try findPending(size: size)
    }

    private func initialise(usedIndex: UInt16) {
        lastBatchHead = 0
        region.initialise {
            region.store16(Place.lastBatchHead, 0)
            region.store16(Place.usedIndex, usedIndex)
            for index in 0..<region.entries {
                region.store64(Place.entry(index), 0)
                region.store64(Place.entry(index) + Place.counter, 0)
            }
        }
    }

    /// The other process published its last batch but died before it could note that.
    private func finishLastBatch(count: UInt16, usedIndex: UInt16) {
        var head = lastBatchHead
        for _ in 0..<count {
            guard head < region.entries else { break }
            region.store8(Place.entry(head) + Place.inflight, 0)
            head = region.load16(Place.entry(head) + Place.next)
        }
        region.store16(Place.usedIndex, usedIndex)
    }

    private func findPending(size: UInt16) throws(QueueError) {
        var found: [(head: UInt16, counter: UInt64)] = []
        for index in 0..<region.entries {
            guard region.load8(Place.entry(index) + Place.inflight) == 1 else { continue }
            guard index < size else { throw .inflightInvalid("head \(index) of \(size)") }
            found.append((index, region.load64(Place.entry(index) + Place.counter)))
        }
        found.sort { $0.counter > $1.counter }
        pendingHeads = found.map { $0.head }
        counter = found.first.map { $0.counter &+ 1 } ?? 0
    }

    /// The next pending request is taken over; it is noted already.
    func removeFirstPending() -> UInt16? { pendingHeads.popLast() }

    /// Nothing is in flight any more.
    func forget(usedIndex: UInt16) {
        pendingHeads = []
        initialise(usedIndex: usedIndex)
    }

    /// How many requests are still to be taken over.
    var pendingCount: Int { pendingHeads.count }

    /// A request was taken from the available ring.
    func taken(_ head: UInt16) {
        let entry = Place.entry(head)
        region.store64(entry + Place.counter, counter)
        counter &+= 1
        region.store8(entry + Place.inflight, 1)
    }

    /// A request was put into the used ring, which the driver does not see yet.
    func completing(_ head: UInt16) { batch.append(head) }

    /// The used ring's index is about to change.
    func publishing() {
        for head in batch {
            region.store16(Place.entry(head) + Place.next, lastBatchHead)
            lastBatchHead = head
            region.store16(Place.lastBatchHead, head)
        }
    }

    /// The used ring's index has changed.
    func published(usedIndex: UInt16) {
        for head in batch { region.store8(Place.entry(head) + Place.inflight, 0) }
        region.store16(Place.usedIndex, usedIndex)
        batch.removeAll(keepingCapacity: true)
    }
}
