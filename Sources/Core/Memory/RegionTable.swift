/// A queue's own copy of the memory regions, for translating addresses without reference counting.
/// It remembers where the last address was. Behind an IOMMU it is empty: all addresses go the slow
/// way.
// SAFETY: `entries` belongs to this value alone and holds `count` initialised entries (at least
// one) until deinit; `current` is always below `count`. The `memory` keeps all bases mapped.
@safe struct RegionTable: ~Copyable {
    // SAFETY: plain data; whoever follows `base` says why that is valid.
    @safe private struct Entry: BitwiseCopyable {
        var start: UInt64
        var size: UInt64
        var base: UnsafeMutableRawPointer
    }

    let memory: GuestMemory
    /// What addresses lead through.
    let iotlb: IOTLBClient?
    /// Buffers outside memory are left out of their chain.
    let leavesOutUnreachable: Bool
    private let entries: UnsafeMutablePointer<Entry>
    private let count: Int
    private var current = 0

    init(_ setup: QueueSetup) {
        memory = setup.memory
        iotlb = setup.iotlb
        leavesOutUnreachable = setup.leavesOutUnreachable && setup.iotlb == nil
        let regions = setup.iotlb == nil ? setup.memory.regions : []
        count = max(regions.count, 1)
        unsafe entries = .allocate(capacity: count)
        // Without regions, one that contains nothing.
        unsafe entries.initialize(
            to: Entry(start: 0, size: 0, base: UnsafeMutableRawPointer(entries)))
        for (index, region) in regions.enumerated() {
            unsafe (entries + index).initialize(
                to: Entry(
                    start: region.start.rawValue, size: region.size, base: region.base))
        }
    }

    deinit { unsafe entries.deallocate() }

    /// The host address of `address` and how many bytes follow in its region, itself included.
    @inline(__always)
    mutating func find(_ address: UInt64) -> (host: UnsafeMutableRawPointer, available: UInt64)? {
        let entry = unsafe entries[current]
        // An address below `start` wraps to an offset that no region is large enough for.
        let offset = address &- entry.start
        if offset < entry.size {
            return unsafe (entry.base + Int(bitPattern: UInt(offset)), entry.size &- offset)
        }
        return unsafe search(address)
    }

    @inline(never)
    private mutating func search(
        _ address: UInt64
    ) -> (host: UnsafeMutableRawPointer, available: UInt64)? {
        // The last region that begins at or below the address is the only one that can hold it.
        var lower = 0
        var upper = count
        while lower < upper {
            let middle = lower + (upper - lower) / 2
            if unsafe entries[middle].start <= address {
                lower = middle + 1
            } else {
                upper = middle
            }
        }
        guard lower > 0 else { return nil }
        let entry = unsafe entries[lower - 1]
        let offset = address &- entry.start
        guard offset < entry.size else { return nil }
        current = lower - 1
        return unsafe (entry.base + Int(bitPattern: UInt(offset)), entry.size &- offset)
    }

    /// The same the slow way, which leads everywhere.
    /// - Parameter isWritable: what an IOMMU must allow.
    /// - Returns: also the guest address.
    mutating func findSlowly(
        _ address: UInt64, isWritable: Bool
    ) -> (host: UnsafeMutableRawPointer, guest: UInt64, available: UInt64)? {
        if let iotlb { return unsafe findTranslated(address, isWritable, iotlb) }
        guard let (host, available) = unsafe find(address) else { return nil }
        return unsafe (host, address, available)
    }

    /// Asks an IOMMU, which may take its time.
    func findTranslated(
        _ address: UInt64, _ isWritable: Bool, _ iotlb: IOTLBClient
    ) -> (host: UnsafeMutableRawPointer, guest: UInt64, available: UInt64)? {
        guard let (guest, known) = iotlb.find(address, isWritable ? .write : .read),
            let region = memory.region(GuestAddress(guest), count: 1)
        else { return nil }
        let offset = guest &- region.start.rawValue
        // SAFETY: the region holds the address.
        let host = unsafe region.base + Int(offset)
        return unsafe (host, guest, min(known, region.size &- offset))
    }
}
