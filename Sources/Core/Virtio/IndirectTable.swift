/// The descriptors of an indirect table (VIRTIO 1.3, sections 2.7.5.3 and 2.8.7). The table may lie
/// anywhere, also across regions.
// SAFETY: `part` is set only if the whole table is contiguous in guest memory and 8-aligned there;
// the index is below `count`.
struct IndirectTable {
    let count: UInt32
    private let address: UInt64
    private let part: RingPart?

    /// Checks the whole table.
    init(_ descriptor: Descriptor, regions: inout RegionTable) throws(QueueError) {
        let length = descriptor.length
        guard length > 0, length % UInt32(Descriptor.size) == 0 else {
            throw .indirectLength(length)
        }
        count = length / UInt32(Descriptor.size)
        address = descriptor.address
        if let (host, available) = unsafe regions.find(address), UInt64(length) <= available,
            UInt(bitPattern: host) % 8 == 0
        {
            unsafe part = RingPart(host)
            return
        }
        part = nil
        do {
            try regions.memory.check(GuestAddress(address), count: UInt64(length))
        } catch {
            throw .indirectOutsideMemory(GuestAddress(address), count: length)
        }
    }

    /// Reads descriptor `index`, which is below `count`.
    @inline(__always)
    func load(_ index: UInt32, regions: borrowing RegionTable) throws(QueueError) -> Descriptor {
        if let part {
            let offset = Int(index) * Descriptor.size
            return Descriptor(
                address: part.loadRelaxed64(offset), word: part.loadRelaxed64(offset + 8))
        }
        return try loadScattered(index, regions.memory)
    }

    @inline(never)
    private func loadScattered(
        _ index: UInt32, _ memory: GuestMemory
    ) throws(QueueError) -> Descriptor {
        let place = GuestAddress(address &+ UInt64(index) * UInt64(Descriptor.size))
        do {
            return Descriptor(
                address: try memory.read(place, as: UInt64.self),
                word: try memory.read(GuestAddress(place.rawValue &+ 8), as: UInt64.self))
        } catch {
            throw .indirectOutsideMemory(place, count: UInt32(Descriptor.size))
        }
    }
}
