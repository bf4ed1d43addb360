/// An access of translated code to memory, in one word.
struct HostAccess: RawRepresentable {
    var rawValue: UInt32

    init(rawValue: UInt32) { self.rawValue = rawValue }

    /// - Parameter isAligned: an address that is no multiple of the size is for the interpreter.
    init(size: UInt8, mode: UInt8, isWrite: Bool, isAligned: Bool) {
        rawValue = UInt32(size) | UInt32(mode & 3) << 8
        if isWrite { rawValue |= 1 << 10 }
        if isAligned { rawValue |= 1 << 11 }
    }

    /// In bytes.
    @inline(__always) var size: UInt64 { UInt64(rawValue & 0xFF) }
    /// A `TLBMode`.
    @inline(__always) var mode: Int { Int(rawValue >> 8 & 3) }
    @inline(__always) var isWrite: Bool { rawValue & 1 << 10 != 0 }
    @inline(__always) var isAligned: Bool { rawValue & 1 << 11 != 0 }
}

extension CPU {
    /// The host address of an access that translated code is about to make, after a page walk if
    /// need be. 0 where only the interpreter can make it: it faults, leaves its page, or reaches a
    /// device, a page that holds code or one that is watched; and where the walk has changed code.
    /// Nothing but accessed and dirty bits and the soft TLB has changed then.
    func reach(_ linear: UInt64, _ access: HostAccess) -> UInt {
        let page = linear & ~0xFFF
        guard linear & 0xFFF <= 4096 - access.size, isCanonical(linear),
            access.mode != TLBMode.userAligned,
            !access.isAligned || linear & (access.size - 1) == 0
        else { return 0 }
        // SAFETY: the slot is part of the tables.
        let slot = unsafe slot(linear, mode: access.mode)
        let isKnown = unsafe slot.pointee.holds(page: page)
        if unsafe isKnown && (!access.isWrite || slot.pointee.physical & TLBFlags.writable != 0) {
            // What the page held may have gone.
            if access.isWrite { unsafe allowFastWrites(slot, linear) }
        } else {
            let kind = access.isWrite ? PageFaultCode.write : 0
            guard let found = translateIfAllowed(linear, mode: access.mode, access: kind) else {
                return 0
            }
            unsafe fill(slot, page: page, mode: access.mode, found)
            // The interpreter leaves translated code behind the instruction.
            if hasExitRequest { return 0 }
        }
        // The look that translated code has made.
        let tag = unsafe access.isWrite ? slot.pointee.writeTag : slot.pointee.readTag
        guard tag ^ linear <= 4096 - access.size else { return 0 }
        return unsafe UInt(slot.pointee.host &+ (linear & 0xFFF))
    }
}
