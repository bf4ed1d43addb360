import Core
import TestSupport
import Testing

/// A ring that is written field by field, for what no driver should do.
struct RawRing {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4

    let scratch: ScratchMemory
    let layout: QueueLayout
    let isPacked: Bool
    let queue: Virtqueue

    init(
        _ kind: RingKind, size: UInt16 = 8,
        features: UInt64 = VirtioFeature.indirectDescriptors,
        windows: [(start: UInt64, size: UInt64)] = [(start: 0x10_0000, size: 0x10_0000)],
        leavesOutUnreachable: Bool = false, iotlb: IOTLBClient? = nil, error: EventFD? = nil
    ) throws {
        scratch = try ScratchMemory(windows)
        isPacked = kind.isPacked
        let driver = DriverQueue(scratch, size: size, features: kind.features | features)
        layout = driver.layout
        var setup = driver.setup(scratch.memory)
        setup.leavesOutUnreachable = leavesOutUnreachable
        setup.iotlb = iotlb
        setup.error = error
        queue = try Virtqueue(setup)
    }

    /// Writes a descriptor into the ring (`table` nil) or a table. Of `next` (split) and `id`
    /// (packed) only one is used. Packed descriptors of the ring are available in the first lap.
    func put(
        _ index: Int, _ address: UInt64, _ length: UInt32, _ flags: UInt16, next: UInt16 = 0,
        id: UInt16 = 0, table: GuestAddress? = nil
    ) throws {
        let place = (table ?? layout.descriptors).rawValue + UInt64(16 * index)
        let memory = scratch.memory
        try memory.write(GuestAddress(place), address)
        try memory.write(GuestAddress(place + 8), length)
        let marks: UInt16 = table == nil ? 0x80 : 0
        try memory.write(GuestAddress(place + 12), isPacked ? id : flags)
        try memory.write(GuestAddress(place + 14), isPacked ? flags | marks : next)
    }

    /// Split: puts `heads` in the available ring and sets its index. Packed: nothing to do.
    func offer(_ heads: [UInt16], index: UInt16? = nil) throws {
        guard !isPacked else { return }
        let start = layout.driver.rawValue
        for (position, head) in heads.enumerated() {
            try scratch.memory.write(GuestAddress(start + 4 + 2 * UInt64(position)), head)
        }
        try scratch.memory.write(GuestAddress(start + 2), index ?? UInt16(heads.count))
    }

    /// Pops and expects `error`; afterwards the queue must be broken, and quiet.
    func expect(_ error: QueueError, at location: SourceLocation = #_sourceLocation) {
        let chain = DescriptorChain()
        #expect(throws: error, sourceLocation: location) { try queue.pop(into: chain) }
        #expect(queue.isBroken, sourceLocation: location)
        #expect(queue.error == error, sourceLocation: location)
        #expect((try? queue.pop(into: chain)) == false, sourceLocation: location)
        #expect(!queue.enableNotifications(), sourceLocation: location)
        #expect(!error.description.isEmpty, sourceLocation: location)
    }
}
