internal import Core
internal import Synchronization

/// A region of guest memory as plain data, for the soft MMU.
// SAFETY: `base` points to `size` mapped bytes for as long as the machine's GuestMemory lives.
@safe struct RAMRegion: BitwiseCopyable {
    var start: UInt64
    var size: UInt64
    var base: UnsafeMutableRawPointer
}

/// The regions of a machine's memory in one piece of raw memory.
// SAFETY: the table is written in `init` and only read afterwards; `memory` keeps the regions
// mapped.
@safe final class RAMTable: @unchecked Sendable {
    let memory: GuestMemory
    let regions: UnsafePointer<RAMRegion>
    let count: Int
    /// Guest-physical pages up to the end of the last region.
    let pageCount: UInt64

    init(_ memory: GuestMemory) {
        self.memory = memory
        count = memory.regions.count
        let table = UnsafeMutablePointer<RAMRegion>.allocate(capacity: max(count, 1))
        for (index, region) in memory.regions.enumerated() {
            unsafe (table + index).initialize(
                to: RAMRegion(
                    start: region.start.rawValue, size: region.size, base: region.base))
        }
        unsafe regions = UnsafePointer(table)
        pageCount = memory.regions.last.map { ($0.last.rawValue >> 12) + 1 } ?? 0
    }

    deinit { unsafe regions.deallocate() }
}

extension CPU {
    /// The host address of `count` bytes of guest memory, or of their copy; `nil` where they are not
    /// all in one region.
    @inline(__always)
    func physicalHost(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        if fields.lockstep == Lockstep.Stage.copied, let copy = unsafe copiedHost(physical) {
            return unsafe copy
        }
        return unsafe memoryHost(physical, count: count)
    }

    /// The same without copies.
    @inline(__always)
    func memoryHost(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        // SAFETY: a region of the table, and the range is checked against it.
        if let region = unsafe state.pointee.lastRegion {
            let offset = unsafe physical &- region.pointee.start
            if unsafe offset < region.pointee.size && count <= region.pointee.size &- offset {
                return unsafe region.pointee.base + Int(offset)
            }
        }
        return unsafe findHost(physical, count: count)
    }

    /// The same for any region but the last one that has been used.
    @inline(never)
    private func findHost(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
        // SAFETY: the table has `ramCount` entries, and the range is checked against one.
        guard var region = unsafe state.pointee.ram else { return nil }
        for _ in 0..<(unsafe state.pointee.ramCount) {
            let offset = unsafe physical &- region.pointee.start
            if unsafe offset < region.pointee.size && count <= region.pointee.size &- offset {
                unsafe state.pointee.lastRegion = region
                return unsafe region.pointee.base + Int(offset)
            }
            unsafe region += 1
        }
        return unsafe windowHost(physical, count: count)
    }

    /// Reads an aligned paging-structure entry; all ones where there is no memory.
    func loadEntry64(_ physical: UInt64) -> UInt64 {
        guard let host = unsafe physicalHost(physical, count: 8) else { return UInt64.max }
        // SAFETY: mapped, and aligned because regions start at page borders.
        return unsafe host.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(
            ordering: .relaxed)
    }

    /// The same for 32-bit paging.
    func loadEntry32(_ physical: UInt64) -> UInt32 {
        guard let host = unsafe physicalHost(physical, count: 4) else { return UInt32.max }
        // SAFETY: as above.
        return unsafe host.assumingMemoryBound(to: Atomic<UInt32>.self).pointee.load(
            ordering: .relaxed)
    }

    /// Sets bits in a paging-structure entry. Returns `false` if it has changed since it was read.
    func setEntryBits(_ physical: UInt64, old: UInt64, bits: UInt64) -> Bool {
        if old & bits == bits { return true }
        if fields.lockstep != Lockstep.Stage.off { noteWrite(physical: physical) }
        guard let host = unsafe physicalHost(physical, count: 8) else { return true }
        let others = prepareEntryWrite(physical, count: 8)
        // SAFETY: as above.
        let isSet = unsafe host.assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .compareExchange(expected: old, desired: old | bits, ordering: .relaxed).exchanged
        announce(others, physical: physical)
        return isSet
    }

    /// The same for 32-bit paging.
    func setEntryBits(_ physical: UInt64, old: UInt32, bits: UInt32) -> Bool {
        if old & bits == bits { return true }
        if fields.lockstep != Lockstep.Stage.off { noteWrite(physical: physical) }
        guard let host = unsafe physicalHost(physical, count: 4) else { return true }
        let others = prepareEntryWrite(physical, count: 4)
        // SAFETY: as above.
        let isSet = unsafe host.assumingMemoryBound(to: Atomic<UInt32>.self).pointee
            .compareExchange(expected: old, desired: old | bits, ordering: .relaxed).exchanged
        announce(others, physical: physical)
        return isSet
    }

    /// `prepareWrite` for a paging-structure entry.
    private func prepareEntryWrite(_ physical: UInt64, count: Int) -> UInt64 {
        guard hasCode(physical: physical) else { return 0 }
        // It may be what is running: translated code asks for this (`reach`).
        requestService()
        return prepareWrite(physical: physical, count: count)
    }
}
