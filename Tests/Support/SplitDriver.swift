internal import Core

/// The driver's side of a split ring (VIRTIO 1.3, section 2.7.13 and following).
struct SplitDriver: ~Copyable {
    private let size: UInt16
    private let hasEventIndex: Bool
    private let descriptors: SharedCells
    private let available: SharedCells
    private let used: SharedCells
    private let tables: IndirectTables

    private var pending: [PendingRequest]
    /// The free descriptors, linked; private, so that the device cannot disturb it.
    private var nextFree: [UInt16]
    private var firstFree: UInt16 = 0
    private(set) var freeCount: Int
    private var nextAvailable: UInt16
    private var published: UInt16
    private var nextUsed: UInt16

    init(
        _ layout: QueueLayout, _ memory: GuestMemory, features: UInt64, tables: IndirectTables,
        start: UInt16
    ) {
        size = layout.size
        let count = Int(size)
        hasEventIndex = features & VirtioFeature.eventIndex != 0
        descriptors = .find(layout.descriptors, count: 16 * count, in: memory)
        available = .find(layout.driver, count: 6 + 2 * count, in: memory)
        used = .find(layout.device, count: 6 + 8 * count, in: memory)
        self.tables = tables
        pending = Array(repeating: PendingRequest(token: 0, descriptorCount: 0), count: count)
        nextFree = (0..<count).map { UInt16(($0 + 1) % count) }
        freeCount = count
        nextAvailable = start
        published = start
        nextUsed = start
        available.store16(2, start)
        used.store16(2, start)
    }

    var state: QueueState { QueueState(nextAvailable: published, nextUsed: nextUsed) }

    mutating func add(
        _ buffers: Span<DriverBuffer>, readableCount: Int, style: DescriptorStyle, token: UInt64
    ) -> Bool {
        // How many buffers are in the ring itself, and how many in a table.
        var direct = buffers.count
        switch style {
        case .direct: break
        case .indirect: direct = 0
        case .mixed: direct = min(1, buffers.count - 1)
        }
        let needed = direct < buffers.count ? direct + 1 : direct
        guard needed <= freeCount, needed > 0 else { return false }
        let head = firstFree
        for position in 0..<needed {
            let index = firstFree
            firstFree = nextFree[Int(index)]
            let isLast = position == needed - 1
            var flags: UInt16 = isLast ? 0 : RingFlag.next
            let offset = 16 * Int(index)
            if position < direct {
                flags |= position < readableCount ? 0 : RingFlag.write
                descriptors.put(offset, buffers[position].address.rawValue)
                descriptors.put(offset + 8, buffers[position].length)
            } else {
                flags |= RingFlag.indirect
                fillTable(Int(head), buffers, from: direct, readableCount: readableCount)
                descriptors.put(offset, tables.address(Int(head)))
                descriptors.put(offset + 8, UInt32(16 * (buffers.count - direct)))
            }
            descriptors.put(offset + 12, flags)
            descriptors.put(offset + 14, isLast ? 0 : firstFree)
        }
        freeCount -= needed
        pending[Int(head)] = PendingRequest(token: token, descriptorCount: UInt16(needed))
        available.put(4 + 2 * Int(nextAvailable & (size - 1)), head)
        nextAvailable &+= 1
        return true
    }

    private func fillTable(
        _ id: Int, _ buffers: Span<DriverBuffer>, from first: Int, readableCount: Int
    ) {
        precondition(buffers.count - first <= tables.size, "the indirect tables are too small")
        for index in first..<buffers.count {
            let isLast = index == buffers.count - 1
            let flags =
                (isLast ? 0 : RingFlag.next) | (index < readableCount ? 0 : RingFlag.write)
            tables.put(
                id, index - first, buffers[index], flags, isLast ? 0 : UInt16(index - first + 1))
        }
    }

    mutating func publish() -> Bool {
        let old = published
        guard nextAvailable != old else { return false }
        published = nextAvailable
        available.store16(2, nextAvailable)
        SharedCells.fence()
        if hasEventIndex {
            let event = used.load16(4 + 8 * Int(size))
            return nextAvailable &- event &- 1 < nextAvailable &- old
        }
        return used.load16(0) & 1 == 0
    }

    mutating func popUsed() throws(DriverQueueError) -> UsedRequest? {
        let index = used.load16(2)
        guard index != nextUsed else { return nil }
        guard index &- nextUsed <= size, index &- nextUsed <= published &- nextUsed else {
            throw .usedIndexJumped(to: index, expected: nextUsed)
        }
        let offset = 4 + 8 * Int(nextUsed & (size - 1))
        let id = used.load32(offset)
        let written = used.load32(offset + 4)
        guard id < UInt32(size), pending[Int(id)].descriptorCount > 0 else {
            throw .unknownID(id)
        }
        let request = pending[Int(id)]
        pending[Int(id)].descriptorCount = 0
        release(UInt16(id), request.descriptorCount)
        nextUsed &+= 1
        return UsedRequest(token: request.token, written: written)
    }

    /// Puts a chain's descriptors back. They are still linked in the order they were taken.
    private mutating func release(_ head: UInt16, _ count: UInt16) {
        var last = head
        for _ in 1..<count { last = nextFree[Int(last)] }
        nextFree[Int(last)] = firstFree
        firstFree = head
        freeCount += Int(count)
    }

    func disableCalls() { available.store16(0, 1) }

    func enableCalls(after count: UInt16) -> Bool {
        if hasEventIndex { available.store16(4 + 2 * Int(size), nextUsed &+ count &- 1) }
        available.store16(0, 0)
        SharedCells.fence()
        return used.load16(2) != nextUsed
    }
}
