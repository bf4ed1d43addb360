// Page walks: SDM volume 3, chapter 4.

/// What an access wants, as the bits of a page fault's error code (SDM volume 3, section 4.7).
enum PageFaultCode {
    static let present: UInt16 = 1 << 0
    static let write: UInt16 = 1 << 1
    static let user: UInt16 = 1 << 2
    static let reserved: UInt16 = 1 << 3
    static let fetch: UInt16 = 1 << 4
    static let protectionKey: UInt16 = 1 << 5
}

/// What a walk found: the page, and what the mode that asked may do with it.
struct Translation {
    /// The guest-physical page address, with `TLBFlags`.
    var physical: UInt64
    var isReadable: Bool
}

/// Bits of paging-structure entries.
enum PageEntry {
    static let present: UInt64 = 1 << 0
    static let writable: UInt64 = 1 << 1
    static let user: UInt64 = 1 << 2
    static let accessed: UInt64 = 1 << 5
    static let dirty: UInt64 = 1 << 6
    static let large: UInt64 = 1 << 7
    static let global: UInt64 = 1 << 8
    static let noExecute: UInt64 = 1 << 63

    static let physicalBits: UInt64 = 46
    static let address: UInt64 = (1 << physicalBits - 1) & ~0xFFF
    /// Address bits that a processor with `physicalBits` does not have.
    static let unaddressable: UInt64 = (1 << 52 - 1) & ~(1 << physicalBits - 1)
}

/// A walk in progress: the rights so far, and where the entries were.
private struct Walk {
    var linear: UInt64
    /// AND of R/W and U/S, OR of XD.
    var writable = true
    var user = true
    var noExecute = false
    /// The last entry's protection key.
    var key: UInt32 = 0
    /// Entries that must get their accessed bit.
    var addresses = InlineArray<4, UInt64>(repeating: 0)
    var entries = InlineArray<4, UInt64>(repeating: 0)
    var count = 0

    mutating func add(_ address: UInt64, _ entry: UInt64) {
        writable = writable && entry & PageEntry.writable != 0
        user = user && entry & PageEntry.user != 0
        noExecute = noExecute || entry & PageEntry.noExecute != 0
        key = UInt32(entry >> 59) & 15
        addresses[count] = address
        entries[count] = entry
        count += 1
    }
}

extension CPU {
    /// Translates a linear address for a mode (0-2) and an access (`write`, `fetch` or neither).
    /// Sets accessed and dirty bits; on a fault CR2 is set.
    func translate(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation {
        let cr0 = fields.cr0
        if cr0 & CR0.pg == 0 {
            return Translation(
                physical: (linear & 0xFFFF_F000) | TLBFlags.valid | TLBFlags.executable
                    | TLBFlags.writable | TLBFlags.user,
                isReadable: true)
        }
        while true {
            let result =
                fields.isLongMode
                ? try walkLong(linear, mode: mode, access: access)
                : fields.cr4 & CR4.pae != 0
                    ? try walkPAE(linear, mode: mode, access: access)
                    : try walkLegacy(linear, mode: mode, access: access)
            // `nil`: another CPU changed an entry meanwhile.
            if let result { return result }
        }
    }

    /// Four levels (section 4.5).
    private func walkLong(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation? {
        var walk = Walk(linear: linear)
        var table = fields.cr3 & PageEntry.address
        var shift: UInt64 = 39
        while true {
            let address = table | ((linear >> shift) & 0x1FF) << 3
            let entry = loadEntry64(address)
            // Bit 7 is reserved in a PML4 entry.
            let reserved = shift == 39 ? PageEntry.large : 0
            try checkEntry(entry, reserved: reserved, linear, mode, access)
            walk.add(address, entry)
            if shift == 12 || (shift < 39 && entry & PageEntry.large != 0) {
                return try finish(&walk, entry, shift, mode: mode, access: access)
            }
            table = entry & PageEntry.address
            shift -= 9
        }
    }

    /// Page directory pointers in registers, then two levels (section 4.4).
    private func walkPAE(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation? {
        var walk = Walk(linear: linear)
        let pointer = fields.pdptes[Int((linear >> 30) & 3)]
        guard pointer & PageEntry.present != 0 else {
            throw pageFault(linear, mode, access, 0)
        }
        var table = pointer & PageEntry.address
        var shift: UInt64 = 21
        while true {
            let address = table | ((linear >> shift) & 0x1FF) << 3
            let entry = loadEntry64(address)
            // Bits 52-62 are reserved here, unlike in long mode.
            try checkEntry(entry, reserved: 0x7FF << 52, linear, mode, access)
            walk.add(address, entry)
            if shift == 12 || entry & PageEntry.large != 0 {
                return try finish(&walk, entry, shift, mode: mode, access: access)
            }
            table = entry & PageEntry.address
            shift -= 9
        }
    }

    private func checkEntry(
        _ entry: UInt64, reserved: UInt64, _ linear: UInt64, _ mode: Int, _ access: UInt16
    ) throws(Fault) {
        guard entry & PageEntry.present != 0 else {
            throw pageFault(linear, mode, access, 0)
        }
        var reserved = reserved | PageEntry.unaddressable
        if fields.efer & EFER.nxe == 0 { reserved |= PageEntry.noExecute }
        if entry & reserved != 0 {
            throw pageFault(
                linear, mode, access, PageFaultCode.present | PageFaultCode.reserved)
        }
    }

    /// The last entry of a walk with 64-bit entries has been found.
    private func finish(
        _ walk: inout Walk, _ entry: UInt64, _ shift: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation? {
        let offsetMask = (1 as UInt64) << shift - 1
        // The low address bits of a large page's entry are reserved, but for bit 12 (PAT).
        if shift > 12 && entry & offsetMask & ~0x1FFF != 0 {
            throw pageFault(
                walk.linear, mode, access, PageFaultCode.present | PageFaultCode.reserved)
        }
        try checkRights(walk, mode: mode, access: access)
        let isWrite = access & PageFaultCode.write != 0
        for level in 0..<walk.count {
            var bits = PageEntry.accessed
            if isWrite && level == walk.count - 1 { bits |= PageEntry.dirty }
            if !setEntryBits(walk.addresses[level], old: walk.entries[level], bits: bits) {
                return nil
            }
        }
        let page = (entry & PageEntry.address & ~offsetMask) | (walk.linear & offsetMask & ~0xFFF)
        let size = shift == 12 ? 0 : shift == 30 ? TLBFlags.huge : TLBFlags.large
        return translation(
            walk, page: page | size, isDirty: isWrite || entry & PageEntry.dirty != 0,
            isGlobal: entry & PageEntry.global != 0, mode: mode)
    }

    /// Two levels of 32-bit entries (section 4.3).
    private func walkLegacy(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation? {
        var walk = Walk(linear: linear)
        let directory = (fields.cr3 & 0xFFFF_F000) | ((linear >> 22) & 0x3FF) << 2
        let first = UInt64(loadEntry32(directory))
        guard first & PageEntry.present != 0 else { throw pageFault(linear, mode, access, 0) }
        walk.add(directory, first)
        var last = first
        var page: UInt64
        if first & PageEntry.large != 0 && fields.cr4 & CR4.pse != 0 {
            if first & (1 << 21) != 0 {
                throw pageFault(
                    linear, mode, access, PageFaultCode.present | PageFaultCode.reserved)
            }
            page = (first & 0xFFC0_0000) | ((first >> 13) & 0xFF) << 32 | (linear & 0x3F_F000)
            page |= TLBFlags.large
        } else {
            let address = (first & 0xFFFF_F000) | ((linear >> 12) & 0x3FF) << 2
            last = UInt64(loadEntry32(address))
            guard last & PageEntry.present != 0 else { throw pageFault(linear, mode, access, 0) }
            walk.add(address, last)
            page = last & 0xFFFF_F000
        }
        try checkRights(walk, mode: mode, access: access)
        let isWrite = access & PageFaultCode.write != 0
        for level in 0..<walk.count {
            var bits = UInt32(PageEntry.accessed)
            if isWrite && level == walk.count - 1 { bits |= UInt32(PageEntry.dirty) }
            let old = UInt32(truncatingIfNeeded: walk.entries[level])
            if !setEntryBits(walk.addresses[level], old: old, bits: bits) { return nil }
        }
        return translation(
            walk, page: page, isDirty: isWrite || last & PageEntry.dirty != 0,
            isGlobal: last & PageEntry.global != 0, mode: mode)
    }

    private func translation(
        _ walk: Walk, page: UInt64, isDirty: Bool, isGlobal: Bool, mode: Int
    ) -> Translation {
        var physical = page | TLBFlags.valid
        if isGlobal && (fields.cr4) & CR4.pge != 0 { physical |= TLBFlags.global }
        if walk.user { physical |= TLBFlags.user }
        if isDirty && isAllowed(walk, mode: mode, access: PageFaultCode.write) {
            physical |= TLBFlags.writable
        }
        if isAllowed(walk, mode: mode, access: PageFaultCode.fetch) {
            physical |= TLBFlags.executable
        }
        return Translation(
            physical: physical, isReadable: isAllowed(walk, mode: mode, access: 0))
    }

    private func checkRights(_ walk: Walk, mode: Int, access: UInt16) throws(Fault) {
        if isAllowed(walk, mode: mode, access: access) { return }
        var code = PageFaultCode.present
        if isLocked(walk, mode: mode, access: access) { code |= PageFaultCode.protectionKey }
        throw pageFault(walk.linear, mode, access, code)
    }

    /// Whether a page's protection key forbids an access to data (section 4.6.2). Only another
    /// provider's guests have keys.
    private func isLocked(_ walk: Walk, mode: Int, access: UInt16) -> Bool {
        guard fields.protectionKeyRights != 0, walk.user, access & PageFaultCode.fetch == 0 else {
            return false
        }
        let rights = fields.protectionKeyRights >> (2 * walk.key)
        if rights & 1 != 0 { return true }
        let isChecked = mode == TLBMode.user || fields.cr0 & CR0.wp != 0
        return rights & 2 != 0 && access & PageFaultCode.write != 0 && isChecked
    }

    /// SDM volume 3, section 4.6.1.
    private func isAllowed(_ walk: Walk, mode: Int, access: UInt16) -> Bool {
        if access & PageFaultCode.fetch != 0 {
            if walk.noExecute { return false }
            if mode == TLBMode.user { return walk.user }
            return !walk.user || fields.cr4 & CR4.smep == 0
        }
        if isLocked(walk, mode: mode, access: access) { return false }
        let isWrite = access & PageFaultCode.write != 0
        switch mode {
        case TLBMode.user: return walk.user && (walk.writable || !isWrite)
        case TLBMode.supervisorSMAP where walk.user: return false
        default: return !isWrite || walk.writable || fields.cr0 & CR0.wp == 0
        }
    }

    /// Sets CR2 and makes the fault.
    private func pageFault(
        _ linear: UInt64, _ mode: Int, _ access: UInt16, _ extra: UInt16
    ) -> Fault {
        fields.cr2 = linear
        var code = extra | (access & PageFaultCode.write)
        if mode == TLBMode.user { code |= PageFaultCode.user }
        if access & PageFaultCode.fetch != 0 {
            let hasNX =
                fields.cr4 & CR4.pae != 0
                && fields.efer & EFER.nxe != 0
            if hasNX || fields.cr4 & CR4.smep != 0 { code |= PageFaultCode.fetch }
        }
        return .pageFault(code)
    }
}
