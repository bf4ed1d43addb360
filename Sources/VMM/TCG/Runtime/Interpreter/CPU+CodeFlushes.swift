// When decoded code must be looked up again, or is gone.

extension CPU {
    /// Empties the jump cache and cuts the connections between blocks.
    func flushCodeLookups() {
        for view in 0..<2 { flushCodeLookups(view: view) }
    }

    private func flushCodeLookups(view: Int) {
        counters.generations[view] &+= 1
        if view == 0 { codeCache?.supervisorCode.removeAll() }
        if !fields.codeViews[view].renew() { invalidateAllCode() }
    }

    /// The same after the guest has flushed all translations: supervisor mode's code may go on where
    /// the page tables still say where it is.
    func flushTranslatedCode() {
        flushCodeLookups(view: 1)
        if !keepsSupervisorCode() { flushCodeLookups(view: 0) }
    }

    /// Whether all of supervisor mode's code is fetched from where it was.
    private func keepsSupervisorCode() -> Bool {
        guard let cache = codeCache, is64Bit else { return false }
        var isLocal = false
        let isSame = cache.supervisorCode.allAreSame { linear in
            let found = translateIfAllowed(
                linear, mode: TLBMode.supervisor, access: PageFaultCode.fetch)
            if let found, found.physical & TLBFlags.global == 0 { isLocal = true }
            return found?.physical
        }
        if isSame { fields.codeViews[0].hasLocalCode = isLocal }
        return isSame
    }

    /// The same after a change that leaves code on global pages of supervisor mode alone: a new
    /// address space, and a device that has been told something and may write to memory without
    /// the processor. Code that systems with global pages read from devices goes to pages that are
    /// mapped afterwards, and that were taken out of the TLB when they had another use.
    func flushLocalCodeLookups() {
        if fields.codeViews[0].hasLocalCode { flushCodeLookups(view: 0) }
        flushCodeLookups(view: 1)
    }

    /// The same for a linear address, if some code was fetched from its page.
    func flushCodeLookups(at linear: UInt64) {
        if fields.codeViews[0].mayHaveCode(at: linear) && !keepsSupervisorCode() {
            flushCodeLookups(view: 0)
        }
        if fields.codeViews[1].mayHaveCode(at: linear) { flushCodeLookups(view: 1) }
    }

    /// Bytes at a guest-physical address are about to change or have changed.
    func invalidateCode(physical: UInt64, count: Int) {
        guard let cache = codeCache, count > 0 else { return }
        let last = physical &+ UInt64(count - 1)
        var first = physical
        while true {
            let end = min(last, first | 0xFFF)
            let isEmpty = cache.invalidate(first, end)
            if isEmpty { unmarkCode(physical: first & ~0xFFF) }
            if end == last { return }
            first = end &+ 1
        }
    }

    /// Forgets all blocks. Not while one is running.
    func invalidateAllCode() {
        guard let cache = codeCache else { return }
        counters.flushes &+= 1
        cache.forEachPage { unmarkCode(physical: $0) }
        cache.removeAll()
        cache.supervisorCode.removeAll()
        removeTargets()
        for view in 0..<2 where !fields.codeViews[view].renew() {
            fields.codeViews[view] = CodeView()
        }
    }
}
