// When decoded code must be looked up again, or is gone.

extension CPU {
    /// Empties the jump cache and cuts the connections between blocks.
    func flushCodeLookups() {
        for view in 0..<2 { flushCodeLookups(view: view) }
    }

    private func flushCodeLookups(view: Int) {
        if view == 0 {
            codeCache?.supervisorCode.removeAll()
        } else {
            codeCache?.savedSpaces.removeAll()
        }
        renewView(view)
    }

    private func renewView(_ view: Int) {
        counters.generations[view] &+= 1
        startGeneration(view)
        // A block may be running, and needs what would be forgotten.
        if hasTooManyGenerations { requestService() }
    }

    private func startGeneration(_ view: Int) {
        var latest = fields.latestGeneration
        fields.codeViews[view].renew(&latest)
        fields.latestGeneration = latest
    }

    private var hasTooManyGenerations: Bool {
        fields.latestGeneration >= CodeView.lastGeneration
    }

    /// Begins to count generations again before the count wraps. Between two blocks.
    @inline(__always)
    func limitGenerations() {
        if hasTooManyGenerations { invalidateAllCode() }
    }

    /// The same after a change of CR3, which leaves code on global pages of supervisor mode alone.
    /// With process-context identifiers, what is known about the old address space is kept, and what
    /// was known about the new one comes back, if the guest does not ask for a flush.
    func changeCodeSpace(from old: UInt64, to new: UInt64, keeps: Bool) {
        if fields.codeViews[0].hasLocalCode { flushCodeLookups(view: 0) }
        guard let cache = codeCache, fields.cr4 & CR4.pcide != 0 else {
            return flushCodeLookups(view: 1)
        }
        if (old ^ new) & 0xFFF == 0 { return renewView(1) }
        cache.savedSpaces.save(fields.codeViews[1], old)
        if keeps, let view = cache.savedSpaces.take(new) {
            fields.codeViews[1] = view
            fields.codeViews[1].hasReturned = true
            counters.returns &+= 1
        } else {
            cache.savedSpaces.drop(new)
            renewView(1)
        }
        fields.codeViews[1].isLive = keeps
    }

    /// The same after a flush of one address space that is not the current one.
    func dropCodeSpace(_ identifier: UInt64) { codeCache?.savedSpaces.drop(identifier) }

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

    /// The same after a change that leaves code on global pages of supervisor mode alone: a device
    /// has been told something, or has something to tell, and may have written to memory. Code that
    /// systems with global pages read from devices goes to pages that are mapped afterwards, and
    /// that were taken out of the TLB when they had another use.
    func flushLocalCodeLookups() {
        if fields.codeViews[0].hasLocalCode { flushCodeLookups(view: 0) }
        flushCodeLookups(view: 1)
    }

    /// The same for a linear address, if some code was fetched from its page.
    func flushCodeLookups(at linear: UInt64) {
        if fields.codeViews[0].mayHaveCode(at: linear) && !keepsSupervisorCode() {
            flushCodeLookups(view: 0)
        }
        // A global page is all address spaces'.
        codeCache?.savedSpaces.removeAll(at: linear)
        if fields.codeViews[1].mayHaveCode(at: linear) { renewView(1) }
    }

    /// Bytes at a guest-physical address are about to change or have changed.
    func invalidateCode(physical: UInt64, count: Int) {
        guard let cache = codeCache, count > 0 else { return }
        let last = physical &+ UInt64(count - 1)
        var first = physical
        while true {
            let end = min(last, first | 0xFFF)
            let isEmpty = cache.invalidate(first, end, &counters.killed)
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
        cache.savedSpaces.removeAll()
        removeTargets()
        fields.staleBlock = 0
        for view in 0..<2 { startGeneration(view) }
        if hasTooManyGenerations {
            // There are no blocks of old generations any more.
            fields.latestGeneration = 1
            for view in 0..<2 { fields.codeViews[view].restart() }
        }
    }
}
