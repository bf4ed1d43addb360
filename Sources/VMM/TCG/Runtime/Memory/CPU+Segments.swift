// Segment checks of data accesses in 16- and 32-bit code (SDM volume 3, section 5.3).

extension CPU {
    /// The linear address of a memory operand after the segment's checks (16- and 32-bit code:
    /// type, limit, null; 64-bit code: the bases of FS and GS only).
    func checkedAddress(
        segment number: UInt8, offset: UInt64, size: Int, isWrite: Bool
    ) throws(Fault) -> UInt64 {
        if is64Bit { return addressBase(number) &+ offset }
        let segment = segment(number)
        if !isAccessible(segment, offset: offset, size: size, isWrite: isWrite) {
            throw number == SegmentRegister.ss ? .stackFault(0) : .generalProtection(0)
        }
        return (segment.base &+ offset) & 0xFFFF_FFFF
    }

    func isAccessible(
        _ segment: Segment, offset: UInt64, size: Int, isWrite: Bool
    ) -> Bool {
        guard segment.isUsable else { return false }
        // Types: 0-7 data (bit 1 writable, bit 2 expand-down), 8-15 code (bit 1 readable).
        // Real mode and VM86 load attributes that allow everything.
        if segment.type & 8 != 0 {
            if isWrite ? isProtectedMode : segment.type & 2 == 0 { return false }
        } else if isWrite && segment.type & 2 == 0 {
            return false
        }
        let (last, overflow) = offset.addingReportingOverflow(UInt64(size) &- 1)
        if overflow { return false }
        let limit = UInt64(segment.limit)
        if segment.type & 0xC == 4 {
            let top: UInt64 = segment.isBig ? 0xFFFF_FFFF : 0xFFFF
            return offset > limit && last <= top
        }
        // With the largest limit there may be a fault at the end or not (section 5.3): accesses wrap.
        return last <= limit || limit == 0xFFFF_FFFF
    }
}
