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
    let linear: UInt64
    /// What all entries have, and what any of them has: R/W and U/S count where all have them, XD
    /// where one has.
    var all = UInt64.max
    var any: UInt64 = 0
    var last: UInt64 = 0
    /// For those that must get their accessed bit.
    var addresses = InlineArray<4, UInt64>(repeating: 0)
    var entries = InlineArray<4, UInt64>(repeating: 0)
    var count = 0

    init(_ linear: UInt64) { self.linear = linear }

    @inline(__always) var isWritable: Bool { all & PageEntry.writable != 0 }
    @inline(__always) var isUser: Bool { all & PageEntry.user != 0 }
    @inline(__always) var isNoExecute: Bool { any & PageEntry.noExecute != 0 }
    /// The last entry's protection key.
    var key: UInt32 { UInt32(last >> 59) & 15 }

    /// Of four levels at most.
    @inline(__always)
    mutating func add(_ address: UInt64, _ entry: UInt64) {
        all &= entry
        any |= entry
        last = entry
        // SAFETY: four places.
        unsafe addresses[unchecked: count & 3] = address
        unsafe entries[unchecked: count & 3] = entry
        count += 1
    }
}

/// What a walk has come to. Nothing but accessed and dirty bits has been changed.
private enum WalkResult {
    case page(Translation)
    /// Bits of the error code that the access alone does not say.
    case fault(UInt16)
    /// Another CPU changed an entry meanwhile.
    case changed

    static let reserved = WalkResult.fault(PageFaultCode.present | PageFaultCode.reserved)
}

extension CPU {
    /// Translates a linear address for a mode (0-2) and an access (`write`, `fetch` or neither).
    /// Sets accessed and dirty bits; on a fault CR2 is set.
    func translate(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> Translation {
        while true {
            switch walk(linear, mode: mode, access: access) {
            case .page(let translation): return translation
            case .fault(let extra): throw pageFault(linear, mode, access, extra)
            case .changed: continue
            }
        }
    }

    /// The same, or `nil` where that would fault, and then nothing has changed.
    func translateIfAllowed(_ linear: UInt64, mode: Int, access: UInt16) -> Translation? {
        while true {
            switch walk(linear, mode: mode, access: access) {
            case .page(let translation): return translation
            case .fault: return nil
            case .changed: continue
            }
        }
    }

    private func walk(_ linear: UInt64, mode: Int, access: UInt16) -> WalkResult {
        if fields.cr0 & CR0.pg == 0 {
            return .page(
                Translation(
                    physical: (linear & 0xFFFF_F000) | TLBFlags.valid | TLBFlags.executable
                        | TLBFlags.writable | TLBFlags.user,
                    isReadable: true))
        }
        if fields.isLongMode {
            // Four levels (section 4.5).
            return walkWide(
                linear, table: fields.cr3 & PageEntry.address, shift: 39, reserved: 0, mode: mode,
                access: access)
        }
        if fields.cr4 & CR4.pae == 0 { return walkLegacy(linear, mode: mode, access: access) }
        // Page directory pointers in registers, then two levels (section 4.4). Bits 52-62 are
        // reserved here, unlike in long mode.
        let pointer = fields.pdptes[Int((linear >> 30) & 3)]
        guard pointer & PageEntry.present != 0 else { return .fault(0) }
        return walkWide(
            linear, table: pointer & PageEntry.address, shift: 21, reserved: 0x7FF << 52,
            mode: mode, access: access)
    }

    /// Levels of 64-bit entries, from the one whose index is at `shift` in the address.
    private func walkWide(
        _ linear: UInt64, table: UInt64, shift: UInt64, reserved: UInt64, mode: Int,
        access: UInt16
    ) -> WalkResult {
        var walk = Walk(linear)
        var (table, shift) = (table, shift)
        var reserved = reserved | PageEntry.unaddressable
        if fields.efer & EFER.nxe == 0 { reserved |= PageEntry.noExecute }
        // Bit 7 is reserved in a PML4 entry.
        if shift == 39 { reserved |= PageEntry.large }
        while true {
            let address = table | ((linear >> shift) & 0x1FF) << 3
            let entry = loadEntry64(address)
            if entry & PageEntry.present == 0 { return .fault(0) }
            if entry & reserved != 0 { return .reserved }
            reserved &= ~PageEntry.large
            walk.add(address, entry)
            if shift == 12 || entry & PageEntry.large != 0 {
                return finish(walk, shift, mode: mode, access: access)
            }
            table = entry & PageEntry.address
            shift -= 9
        }
    }

    /// The last entry of a walk with 64-bit entries has been found.
    @inline(__always)
    private func finish(
        _ walk: Walk, _ shift: UInt64, mode: Int, access: UInt16
    ) -> WalkResult {
        let entry = walk.last
        let offsetMask = (1 as UInt64) << shift - 1
        // The low address bits of a large page's entry are reserved, but for bit 12 (PAT).
        if shift > 12 && entry & offsetMask & ~0x1FFF != 0 { return .reserved }
        guard isAllowed(walk, mode: mode, access: access) else {
            return refused(walk, mode: mode, access: access)
        }
        let isWrite = access & PageFaultCode.write != 0
        let wanted = isWrite ? PageEntry.accessed | PageEntry.dirty : PageEntry.accessed
        // Mostly all of them have been used before.
        if walk.all & PageEntry.accessed == 0 || entry & wanted != wanted {
            guard setEntryBits(walk, last: wanted) else { return .changed }
        }
        let page = (entry & PageEntry.address & ~offsetMask) | (walk.linear & offsetMask & ~0xFFF)
        let size = shift == 12 ? 0 : shift == 30 ? TLBFlags.huge : TLBFlags.large
        return .page(
            translation(
                walk, page: page | size, isDirty: isWrite || entry & PageEntry.dirty != 0,
                mode: mode))
    }

    @inline(never)
    private func setEntryBits(_ walk: Walk, last: UInt64) -> Bool {
        for level in 0..<walk.count {
            let bits = level == walk.count - 1 ? last : PageEntry.accessed
            if !setEntryBits(walk.addresses[level], old: walk.entries[level], bits: bits) {
                return false
            }
        }
        return true
    }

    /// Two levels of 32-bit entries (section 4.3).
    @inline(never)
    private func walkLegacy(_ linear: UInt64, mode: Int, access: UInt16) -> WalkResult {
        var walk = Walk(linear)
        let directory = (fields.cr3 & 0xFFFF_F000) | ((linear >> 22) & 0x3FF) << 2
        let first = UInt64(loadEntry32(directory))
        if first & PageEntry.present == 0 { return .fault(0) }
        walk.add(directory, first)
        var page: UInt64
        if first & PageEntry.large != 0 && fields.cr4 & CR4.pse != 0 {
            if first & (1 << 21) != 0 { return .reserved }
            page = (first & 0xFFC0_0000) | ((first >> 13) & 0xFF) << 32 | (linear & 0x3F_F000)
            page |= TLBFlags.large
        } else {
            let address = (first & 0xFFFF_F000) | ((linear >> 12) & 0x3FF) << 2
            let last = UInt64(loadEntry32(address))
            if last & PageEntry.present == 0 { return .fault(0) }
            walk.add(address, last)
            page = last & 0xFFFF_F000
        }
        guard isAllowed(walk, mode: mode, access: access) else {
            return refused(walk, mode: mode, access: access)
        }
        let isWrite = access & PageFaultCode.write != 0
        for level in 0..<walk.count {
            var bits = UInt32(PageEntry.accessed)
            if isWrite && level == walk.count - 1 { bits |= UInt32(PageEntry.dirty) }
            let old = UInt32(truncatingIfNeeded: walk.entries[level])
            if !setEntryBits(walk.addresses[level], old: old, bits: bits) { return .changed }
        }
        return .page(
            translation(
                walk, page: page, isDirty: isWrite || walk.last & PageEntry.dirty != 0,
                mode: mode))
    }

    @inline(__always)
    private func translation(
        _ walk: Walk, page: UInt64, isDirty: Bool, mode: Int
    ) -> Translation {
        var physical = page | TLBFlags.valid
        if walk.last & PageEntry.global != 0 && fields.cr4 & CR4.pge != 0 {
            physical |= TLBFlags.global
        }
        if walk.isUser { physical |= TLBFlags.user }
        if isDirty && isAllowed(walk, mode: mode, access: PageFaultCode.write) {
            physical |= TLBFlags.writable
        }
        if isAllowed(walk, mode: mode, access: PageFaultCode.fetch) {
            physical |= TLBFlags.executable
        }
        return Translation(
            physical: physical, isReadable: isAllowed(walk, mode: mode, access: 0))
    }

    @inline(never)
    private func refused(_ walk: Walk, mode: Int, access: UInt16) -> WalkResult {
        let isLocked = isLocked(walk, mode: mode, access: access)
        return .fault(PageFaultCode.present | (isLocked ? PageFaultCode.protectionKey : 0))
    }

    /// Whether a page's protection key forbids an access to data (section 4.6.2). Only another
    /// provider's guests have keys.
    @inline(__always)
    private func isLocked(_ walk: Walk, mode: Int, access: UInt16) -> Bool {
        guard fields.protectionKeyRights != 0, walk.isUser, access & PageFaultCode.fetch == 0 else {
            return false
        }
        let rights = fields.protectionKeyRights >> (2 * walk.key)
        if rights & 1 != 0 { return true }
        let isChecked = mode == TLBMode.user || fields.cr0 & CR0.wp != 0
        return rights & 2 != 0 && access & PageFaultCode.write != 0 && isChecked
    }

    /// SDM volume 3, section 4.6.1.
    @inline(__always)
    private func isAllowed(_ walk: Walk, mode: Int, access: UInt16) -> Bool {
        if access & PageFaultCode.fetch != 0 {
            if walk.isNoExecute { return false }
            if mode == TLBMode.user { return walk.isUser }
            return !walk.isUser || fields.cr4 & CR4.smep == 0
        }
        if isLocked(walk, mode: mode, access: access) { return false }
        let isWrite = access & PageFaultCode.write != 0
        switch mode {
        case TLBMode.user: return walk.isUser && (walk.isWritable || !isWrite)
        case TLBMode.supervisorSMAP where walk.isUser: return false
        default: return !isWrite || walk.isWritable || fields.cr0 & CR0.wp == 0
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
