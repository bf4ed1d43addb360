internal import Core

/// The driver's side of a packed ring (VIRTIO 1.3, section 2.8.20 and following).
struct PackedDriver: ~Copyable {
    private let size: UInt16
    private let hasEventIndex: Bool
    private let ring: SharedCells
    private let driverEvent: SharedCells
    private let deviceEvent: SharedCells
    private let tables: IndirectTables

    private var pending: [PendingRequest]
    private var freeIDs: [UInt16]
    private(set) var freeCount: Int
    // Positions; a wrap counter of one is `true`.
    private var available: UInt16
    private var availableWrap: Bool
    private var used: UInt16
    private var usedWrap: Bool
    /// Descriptors added since the last publish, and the first one's place and flags.
    private var added: UInt16 = 0
    private var firstOffset = 0
    private var firstFlags: UInt16 = 0

    init(
        _ layout: QueueLayout, _ memory: GuestMemory, features: UInt64, tables: IndirectTables,
        start: UInt16
    ) {
        size = layout.size
        hasEventIndex = features & VirtioFeature.eventIndex != 0
        ring = .find(layout.descriptors, count: 16 * Int(size), in: memory)
        driverEvent = .find(layout.driver, count: 4, in: memory)
        deviceEvent = .find(layout.device, count: 4, in: memory)
        self.tables = tables
        pending = Array(
            repeating: PendingRequest(token: 0, descriptorCount: 0), count: Int(size))
        freeIDs = (0..<size).reversed()
        freeCount = Int(size)
        available = start & 0x7fff
        availableWrap = start & 0x8000 != 0
        used = available
        usedWrap = availableWrap
        // What lies ahead must look used in the lap before: AVAIL and USED both are the other
        // counter; what lies behind has been used in this lap.
        for index in 0..<size {
            let isSet = index < available ? availableWrap : !availableWrap
            ring.put(16 * Int(index) + 14, isSet ? 0x8080 : 0 as UInt16)
        }
    }

    var state: QueueState {
        // Without the batch that the device has not seen yet.
        var index = Int(available) - Int(added)
        var wrap = availableWrap
        if index < 0 {
            index += Int(size)
            wrap.toggle()
        }
        return QueueState(
            nextAvailable: UInt16(index) | (wrap ? 0x8000 : 0),
            nextUsed: used | (usedWrap ? 0x8000 : 0))
    }

    mutating func add(
        _ buffers: Span<DriverBuffer>, readableCount: Int, style: DescriptorStyle, token: UInt64
    ) -> Bool {
        let needed = style == .direct ? buffers.count : 1
        guard needed <= freeCount, needed > 0, let id = freeIDs.popLast() else { return false }
        let firstPlace = 16 * Int(available)
        var headFlags: UInt16 = 0
        for position in 0..<needed {
            let offset = 16 * Int(available)
            var flags: UInt16 = availableWrap ? 0x0080 : 0x8000
            if style == .direct {
                flags |= position < needed - 1 ? RingFlag.next : 0
                flags |= position < readableCount ? 0 : RingFlag.write
                ring.put(offset, buffers[position].address.rawValue)
                ring.put(offset + 8, buffers[position].length)
            } else {
                flags |= RingFlag.indirect
                fillTable(Int(id), buffers, readableCount: readableCount)
                ring.put(offset, tables.address(Int(id)))
                ring.put(offset + 8, UInt32(16 * buffers.count))
            }
            ring.put(offset + 12, id)
            if position == 0 { headFlags = flags } else { ring.store16(offset + 14, flags) }
            available += 1
            if available == size {
                available = 0
                availableWrap.toggle()
            }
        }
        if added == 0 {
            firstOffset = firstPlace
            firstFlags = headFlags
        } else {
            ring.store16(firstPlace + 14, headFlags)
        }
        added += UInt16(needed)
        freeCount -= needed
        pending[Int(id)] = PendingRequest(token: token, descriptorCount: UInt16(needed))
        return true
    }

    private func fillTable(_ id: Int, _ buffers: Span<DriverBuffer>, readableCount: Int) {
        precondition(buffers.count <= tables.size, "the indirect tables are too small")
        for index in 0..<buffers.count {
            tables.put(id, index, buffers[index], 0, index < readableCount ? 0 : RingFlag.write)
        }
    }

    mutating func publish() -> Bool {
        guard added > 0 else { return false }
        ring.store16(firstOffset + 14, firstFlags)
        SharedCells.fence()
        let event = deviceEvent.load32(0)
        let old = available &- added
        added = 0
        switch event >> 16 & 3 {
        case 1: return false
        case 2 where hasEventIndex:
            var place = UInt16(truncatingIfNeeded: event & 0x7fff)
            if (event & 0x8000 != 0) != availableWrap { place &-= size }
            return available &- place &- 1 < available &- old
        default: return true
        }
    }

    mutating func popUsed() throws(DriverQueueError) -> UsedRequest? {
        let offset = 16 * Int(used)
        guard Self.isUsed(ring.load16(offset + 14), usedWrap) else { return nil }
        let written = ring.load32(offset + 8)
        let id = ring.load16(offset + 12)
        guard id < size, pending[Int(id)].descriptorCount > 0 else {
            throw .unknownID(UInt32(id))
        }
        let request = pending[Int(id)]
        pending[Int(id)].descriptorCount = 0
        freeIDs.append(id)
        freeCount += Int(request.descriptorCount)
        used += request.descriptorCount
        if used >= size {
            used -= size
            usedWrap.toggle()
        }
        return UsedRequest(token: request.token, written: written)
    }

    private static func isUsed(_ flags: UInt16, _ wrap: Bool) -> Bool {
        flags & 0x8080 == (wrap ? 0x8080 : 0)
    }

    func disableCalls() { driverEvent.store32(0, 1 << 16) }

    func enableCalls(after count: UInt16) -> Bool {
        if hasEventIndex {
            var place = Int(used) + Int(count) - 1
            var wrap = usedWrap
            if place >= Int(size) {
                place -= Int(size)
                wrap.toggle()
            }
            driverEvent.store32(0, UInt32(place) | (wrap ? 0x8000 : 0) | 2 << 16)
        } else {
            driverEvent.store32(0, 0)
        }
        SharedCells.fence()
        return Self.isUsed(ring.load16(16 * Int(used) + 14), usedWrap)
    }
}
