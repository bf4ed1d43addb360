// What the soft MMU asks while a block runs in both tiers. All of it is in slow paths, behind a look
// at `VCPUState.lockstep`.

// SAFETY: slots are the soft TLB's, and pages the guest's or their copies; see Lockstep.
extension CPU {
    /// An access to memory may write by way of `slot`, which is for the page at `page`.
    @inline(never)
    func noteWrite(_ slot: UnsafeMutablePointer<TLBEntry>, page: UInt64) {
        let stage = fields.lockstep
        guard stage >= Lockstep.Stage.copied, let lockstep = owner.lockstep else { return }
        let flags = unsafe slot.pointee.physical
        if flags & TLBFlags.device != 0 { return }
        noteWrite(physical: flags)
        guard stage == Lockstep.Stage.copied else { return }
        // The write would end the block, and may end this run of it differently.
        if hasCode(physical: flags) { lockstep.isUnfit = true }
        if unsafe flags & TLBFlags.slow != 0 || slot.pointee.writeTag == page { return }
        unsafe lockstep.noteWritten(slot, page: page)
        redirect(flags & ~0xFFF, at: page, lockstep)
        unsafe slot.pointee.writeTag = page
    }

    /// A page is about to be written, by an access or by a page walk.
    @inline(never)
    func noteWrite(physical: UInt64) {
        let page = physical & ~0xFFF
        guard fields.lockstep >= Lockstep.Stage.copied, let lockstep = owner.lockstep,
            lockstep.index(of: page) == nil, let host = unsafe memoryHost(page, count: 4096)
        else { return }
        unsafe lockstep.add(page, host)
    }

    /// Lets the TLB's entries for a page lead to its copy.
    private func redirect(_ physical: UInt64, at page: UInt64, _ lockstep: Lockstep) {
        guard let copy = unsafe lockstep.copy(of: physical) else { return }
        let host = UInt64(UInt(bitPattern: copy))
        if lockstep.isThorough {
            for slot in 0..<3 * TLB.entries {
                unsafe redirect(state.pointee.tlbTables + slot, physical, host, lockstep)
            }
        } else {
            for mode in 0..<3 { unsafe redirect(slot(page, mode: mode), physical, host, lockstep) }
        }
    }

    private func redirect(
        _ slot: UnsafeMutablePointer<TLBEntry>, _ physical: UInt64, _ host: UInt64,
        _ lockstep: Lockstep
    ) {
        let flags = unsafe slot.pointee.physical
        guard flags & ~0xFFF == physical,
            flags & (TLBFlags.valid | TLBFlags.slow) == TLBFlags.valid
        else { return }
        unsafe lockstep.note(slot)
        unsafe slot.pointee.host = host
    }

    /// Lets all entries for pages that have a copy lead there.
    func redirectAll(_ lockstep: Lockstep) {
        lockstep.isThorough = true
        for index in 0..<lockstep.pageCount { redirect(lockstep.address(index), at: 0, lockstep) }
    }

    /// A TLB entry is about to be replaced.
    @inline(never)
    func noteFill(_ slot: UnsafeMutablePointer<TLBEntry>) {
        if fields.lockstep >= Lockstep.Stage.copied { unsafe owner.lockstep?.note(slot) }
    }

    /// The copy of a page, where there is one.
    @inline(never)
    func copiedHost(_ physical: UInt64) -> UnsafeMutableRawPointer? {
        guard let copy = unsafe owner.lockstep?.copy(of: physical & ~0xFFF) else { return nil }
        return unsafe copy + Int(physical & 0xFFF)
    }

    /// Whether the first run of a block is to end in the middle of a string instruction. Nothing else
    /// ends one, so that both tiers come to the same place.
    @inline(never)
    func isTooLong(after runs: Int) -> Bool {
        guard fields.lockstep == Lockstep.Stage.copied, let lockstep = owner.lockstep else {
            return false
        }
        if runs >= 256 { lockstep.isUnfit = true }
        return lockstep.isUnfit
    }

    /// Whether a device must not be reached, because the run may be made again.
    @inline(__always)
    var isDeviceOutOfReach: Bool {
        if fields.lockstep != Lockstep.Stage.copied { return false }
        owner.lockstep?.isUnfit = true
        return true
    }
}
