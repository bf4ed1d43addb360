// Filling and flushing the soft TLB. All non-global entries belong to the current address space
// (CR3 and PCID): a change of either drops them, and the log says where they are.

extension CPU {
    /// The bits of a linear address that count in the current mode.
    @inline(__always)
    var linearMask: UInt64 { fields.isLongMode ? UInt64.max : 0xFFFF_FFFF }

    /// Those of an address that code uses: in compatibility mode it wraps at 4 GiB, and descriptor
    /// tables may lie above (SDM volume 3, section 4.1.1).
    @inline(__always)
    var codeMask: UInt64 { is64Bit ? UInt64.max : 0xFFFF_FFFF }

    /// The table (0-2) whose entries the current mode's accesses use.
    @inline(__always)
    var dataMode: Int {
        let mode = Int(fields.tlbMode)
        return mode == TLBMode.userAligned ? TLBMode.user : mode
    }

    /// The table for accesses that the processor makes on its own behalf.
    @inline(__always)
    var implicitMode: Int {
        fields.cr4 & CR4.smap != 0 ? TLBMode.supervisorSMAP : TLBMode.supervisor
    }

    /// The slot for a page in a mode's table.
    @inline(__always)
    func slot(_ linear: UInt64, mode: Int) -> UnsafeMutablePointer<TLBEntry> {
        // SAFETY: the mode is below 3 and the index masked.
        unsafe state.pointee.tlbTables + (mode * TLB.entries + TLB.index(linear))
    }

    /// The entry for the page of `linear`, which allows `access` (0 or `PageFaultCode.write`),
    /// after a walk if need be.
    func entry(
        _ linear: UInt64, mode: Int, access: UInt16
    ) throws(Fault) -> UnsafeMutablePointer<TLBEntry> {
        let page = linear & ~0xFFF
        let slot = unsafe slot(linear, mode: mode)
        if unsafe slot.pointee.holds(page: page) {
            if access == 0 { return unsafe slot }
            if unsafe slot.pointee.physical & TLBFlags.writable != 0 {
                if fields.lockstep != Lockstep.Stage.off { unsafe noteWrite(slot, page: page) }
                return unsafe slot
            }
        }
        let translation = try translate(linear, mode: mode, access: access)
        unsafe fill(slot, page: page, mode: mode, translation)
        if access != 0, fields.lockstep != Lockstep.Stage.off {
            unsafe noteWrite(slot, page: page)
        }
        return unsafe slot
    }

    /// Makes `slot` stand for the page at `page`. The translation must be readable.
    func fill(
        _ slot: UnsafeMutablePointer<TLBEntry>, page: UInt64, mode: Int,
        _ translation: Translation
    ) {
        counters.fills &+= 1
        // SAFETY: the caller's slot is part of the tables.
        if fields.lockstep != Lockstep.Stage.off { unsafe noteFill(slot) }
        var physical = translation.physical
        let index = TLB.index(page)
        let empty = TLBEntry.emptyTag(index)
        let host = unsafe physicalHost(physical & ~0xFFF, count: 4096)
        if unsafe host == nil || isAPICPage(physical) { physical |= TLBFlags.device }
        if isWatched(page: page) { physical |= TLBFlags.watched }
        let old = unsafe slot.pointee.physical & (TLBFlags.valid | TLBFlags.global)
        if physical & TLBFlags.huge != 0 {
            fields.hugeEntries.insert(page >> 30)
        } else if physical & TLBFlags.large != 0 {
            fields.largeEntries.insert(page >> 21)
        }
        if physical & TLBFlags.global != 0 {
            fields.hasGlobalEntries = true
        } else if old != TLBFlags.valid {
            logFill(mode * TLB.entries + index)
        }
        if physical & TLBFlags.slow != 0 {
            unsafe slot.pointee = TLBEntry(
                readTag: empty, writeTag: empty, host: page, physical: physical)
            return
        }
        let isFast =
            physical & TLBFlags.writable != 0 && !hasCode(physical: physical)
            && fields.lockstep == Lockstep.Stage.off
        let address = UInt64(UInt(bitPattern: host))
        unsafe slot.pointee = TLBEntry(
            readTag: page, writeTag: isFast ? page : empty, host: address, physical: physical)
        if isFast { unsafe keepSlow(slot, page) }
    }

    private func isAPICPage(_ physical: UInt64) -> Bool {
        (physical & ~0xFFF) == fields.apicPage
    }

    private func logFill(_ slot: Int) {
        // SAFETY: the log has `logCapacity` places. A full log stays full, and then a flush looks
        // at every slot.
        let count = fields.tlbLogCount
        guard count < TLB.logCapacity else {
            fields.tlbLogCount = TLB.logCapacity + 1
            return
        }
        unsafe state.pointee.tlbLog[count] = UInt16(truncatingIfNeeded: slot)
        fields.tlbLogCount = count + 1
    }

    /// Calls `body` with every slot that may hold something, as far as the log goes: a CPU that has
    /// just been made has memory for few. On the CPU's own thread.
    @inline(__always)
    func forEachFilledSlot(_ body: (Int) -> Void) {
        if fields.hasGlobalEntries || fields.tlbLogCount > TLB.logCapacity {
            for slot in 0..<3 * TLB.entries { body(slot) }
        } else {
            // SAFETY: the log holds slots.
            for place in 0..<fields.tlbLogCount { unsafe body(Int(state.pointee.tlbLog[place])) }
        }
    }

    @inline(__always)
    private func clear(_ slot: Int) {
        // SAFETY: callers pass slots below `modes * entries`.
        unsafe state.pointee.tlbTables[slot] = .empty(slot & (TLB.entries - 1))
    }

    /// Drops everything, and what is known about code.
    func flushTLB() {
        flushEntries()
        flushCodeLookups()
    }

    /// Drops everything, as the guest has asked for.
    func flushTranslations() {
        flushEntries()
        flushTranslatedCode()
    }

    private func flushEntries() {
        counters.fullFlushes &+= 1
        forEachFilledSlot { clear($0) }
        fields.hasGlobalEntries = false
        fields.largeEntries.removeAll()
        fields.hugeEntries.removeAll()
        fields.tlbLogCount = 0
    }

    /// Drops all but global pages, and what is known about user mode's code.
    func flushNonGlobal() {
        flushNonGlobalEntries()
        flushLocalCodeLookups()
    }

    /// The same for a new address space.
    /// - Parameter keeps: the guest says that what was known about it is still right.
    func changeSpace(from old: UInt64, to new: UInt64, keeps: Bool) {
        flushNonGlobalEntries()
        changeCodeSpace(from: old, to: new, keeps: keeps)
    }

    private func flushNonGlobalEntries() {
        counters.spaceFlushes &+= 1
        let count = fields.tlbLogCount
        if count > TLB.logCapacity {
            for slot in 0..<3 * TLB.entries {
                // SAFETY: the slot is in range.
                let flags = unsafe state.pointee.tlbTables[slot].physical
                if flags & TLBFlags.global == 0 { clear(slot) }
            }
        } else {
            for place in 0..<count {
                // SAFETY: the log holds slots.
                let slot = unsafe Int(state.pointee.tlbLog[place])
                if unsafe state.pointee.tlbTables[slot].physical & TLBFlags.global == 0 {
                    clear(slot)
                }
            }
        }
        fields.tlbLogCount = 0
    }

    /// Drops what is cached for one linear address, global or not, and whatever else came from
    /// the same large page (SDM volume 3, section 4.10.4.1).
    func flushPage(_ linear: UInt64) {
        counters.pageFlushes &+= 1
        let linear = linear & linearMask
        for mode in 0..<3 {
            let base = mode * TLB.entries
            let own = base + TLB.index(linear)
            // SAFETY: slots in range throughout.
            if unsafe state.pointee.tlbTables[own].holds(page: linear & ~0xFFF) { clear(own) }
        }
        if fields.hugeEntries.mayHold(linear >> 30) || fields.largeEntries.mayHoldLarge(linear) {
            flushLargePage(linear)
        }
        flushCodeLookups(at: linear)
    }

    /// Drops all entries that came from the large page that holds `linear`: the slots of 2 or 4 MiB
    /// lie together in each table, and 1 GiB has all.
    private func flushLargePage(_ linear: UInt64) {
        let largeShift: UInt64 = fields.cr4 & CR4.pae != 0 ? 21 : 22
        let isHuge = fields.hugeEntries.mayHold(linear >> 30)
        let first = isHuge ? 0 : TLB.index((linear >> largeShift) << largeShift)
        let count = isHuge ? TLB.entries : 1 << (largeShift - 12)
        for mode in 0..<3 {
            for index in first..<first + count {
                let slot = mode * TLB.entries + index
                // SAFETY: slots in range: a table has a multiple of a large page's.
                let entry = unsafe state.pointee.tlbTables[slot]
                guard entry.physical & (TLBFlags.large | TLBFlags.huge) != 0 else { continue }
                let page = entry.physical & TLBFlags.slow == 0 ? entry.readTag : entry.host
                let shift = entry.physical & TLBFlags.huge != 0 ? 30 : largeShift
                if page >> shift == linear >> shift { clear(slot) }
            }
        }
    }
}
