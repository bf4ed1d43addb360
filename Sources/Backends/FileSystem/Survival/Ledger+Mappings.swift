internal import CLinux

// What is mapped into the window. A mapping counts from the store of its size on.
// SAFETY: as at the type; slots are written under the lock of the table of mappings.
extension Ledger {
    static let mappingLimit = Int(CLINUX_LEDGER_MAPPINGS)

    private func mapping(_ slot: Int) -> UnsafeMutablePointer<clinux_kept_mapping> {
        precondition(slot < Self.mappingLimit, "there is no such slot")
        return unsafe clinux_ledger_mappings(header) + slot
    }

    /// The number of slots that have ever held a mapping.
    var mappingSlots: Int { unsafe min(Int(header.pointee.mapping_slots), Self.mappingLimit) }

    func note(_ new: MappingTable.Mapping) {
        let slot = unsafe mapping(new.slot)
        unsafe slot.pointee.start = new.start
        unsafe slot.pointee.file_offset = new.fileOffset
        unsafe slot.pointee.node = new.node
        unsafe slot.pointee.writable = new.isWritable ? 1 : 0
        unsafe storeInOrder(new.size, &slot.pointee.size)
        if unsafe header.pointee.mapping_slots <= new.slot {
            unsafe storeInOrder(UInt32(new.slot + 1), &header.pointee.mapping_slots)
        }
    }

    func forgetMapping(_ slot: Int) { unsafe storeInOrder(0, &mapping(slot).pointee.size) }

    /// What a slot holds; nothing if the size is 0.
    func keptMapping(_ slot: Int) -> MappingTable.Mapping {
        let kept = unsafe mapping(slot).pointee
        return MappingTable.Mapping(
            start: kept.start, size: kept.size, fileOffset: kept.file_offset, node: kept.node,
            isWritable: kept.writable != 0)
    }

    func forgetMappings() {
        for slot in 0..<mappingSlots { forgetMapping(slot) }
    }
}
