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
        if let iotlb = regions.iotlb {
            part = Self.part(address, length, regions, iotlb)
            return
        }
        part = nil
        do {
            try regions.memory.check(GuestAddress(address), count: UInt64(length))
        } catch {
            throw .indirectOutsideMemory(GuestAddress(address), count: length)
        }
    }

    /// A table behind an IOMMU that lies in one piece. Another one is checked when it is read.
    private static func part(
        _ address: UInt64, _ length: UInt32, _ regions: borrowing RegionTable,
        _ iotlb: IOTLBClient
    ) -> RingPart? {
        guard let found = unsafe regions.findTranslated(address, false, iotlb),
            unsafe UInt64(length) <= found.available,
            unsafe UInt(bitPattern: found.host) % 8 == 0
        else { return nil }
        return unsafe RingPart(found.host)
    }

    /// Reads descriptor `index`, which is below `count`.
    @inline(__always)
    func load(_ index: UInt32, regions: borrowing RegionTable) throws(QueueError) -> Descriptor {
        if let part {
            let offset = Int(index) * Descriptor.size
            return Descriptor(
                address: part.loadRelaxed64(offset), word: part.loadRelaxed64(offset + 8))
        }
        return try loadScattered(index, regions)
    }

    @inline(never)
    private func loadScattered(
        _ index: UInt32, _ regions: borrowing RegionTable
    ) throws(QueueError) -> Descriptor {
        let place = address &+ UInt64(index) * UInt64(Descriptor.size)
        do throws(GuestMemoryError) {
            if let iotlb = regions.iotlb {
                return Descriptor(
                    address: try loadTranslated(place, regions, iotlb),
                    word: try loadTranslated(place &+ 8, regions, iotlb))
            }
            return Descriptor(
                address: try regions.memory.read(GuestAddress(place), as: UInt64.self),
                word: try regions.memory.read(GuestAddress(place &+ 8), as: UInt64.self))
        } catch {
            throw .indirectOutsideMemory(GuestAddress(place), count: UInt32(Descriptor.size))
        }
    }

    /// Eight bytes, which may lie in two pages that are no neighbours.
    private func loadTranslated(
        _ place: UInt64, _ regions: borrowing RegionTable, _ iotlb: IOTLBClient
    ) throws(GuestMemoryError) -> UInt64 {
        var word: UInt64 = 0
        for i in 0..<8 as Range<UInt64> {
            guard let found = unsafe regions.findTranslated(place &+ i, false, iotlb) else {
                throw .outOfRange(GuestAddress(place), count: 8)
            }
            // SAFETY: `found` says that there is a byte.
            word |= UInt64(unsafe found.host.load(as: UInt8.self)) << (8 * i)
        }
        return word
    }
}
