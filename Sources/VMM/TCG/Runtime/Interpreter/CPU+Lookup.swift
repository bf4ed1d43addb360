internal import Glibc

// From RIP to a decoded block.

extension CPU {
    /// Which of `codeViews` is the current mode's.
    @inline(__always)
    private var codeViewIndex: Int { Int(unsafe state.pointee.modeKey / ModeKey.user & 1) }

    /// The generation of the current mode's code.
    @inline(__always)
    var codeGeneration: UInt32 {
        unsafe state.pointee.codeViews[unchecked: codeViewIndex].generation
    }

    /// Code of the current mode was fetched through a translation.
    @inline(__always)
    func noteCode(_ linear: UInt64, flags: UInt64) {
        unsafe state.pointee.codeViews[unchecked: codeViewIndex].note(linear, flags: flags)
    }

    /// What an entry of the jump cache must have: the mode, and the generation.
    @inline(__always)
    var lookupKey: UInt64 {
        unsafe UInt64(state.pointee.modeKey) | UInt64(codeGeneration) << 32
    }

    @inline(__always)
    func jumpEntry(_ linear: UInt64) -> UnsafeMutablePointer<JumpEntry> {
        // SAFETY: the table has `jumpEntries` entries, a power of two.
        let index = (linear ^ (linear >> 12)) & UInt64(CodeCache.jumpEntries - 1)
        return unsafe state.pointee.jumpCache.unsafelyUnwrapped + Int(index)
    }

    /// The block at `linear` if the jump cache knows it.
    @inline(__always)
    func cachedBlock(_ linear: UInt64) -> Block? {
        let entry = unsafe jumpEntry(linear)
        guard unsafe entry.pointee.linear == linear && entry.pointee.key == lookupKey else {
            return nil
        }
        let block = unsafe Block(address: entry.pointee.block)
        // It may have died since.
        return block?.generation == codeGeneration ? block : nil
    }

    /// The block at RIP. `single`: one that holds a single instruction.
    func findBlock(_ cache: CodeCache, single: Bool) throws(Fault) -> Block {
        if is64Bit {
            if !single, let block = cachedBlock(rip) { return block }
            return try lookUpBlock(cache, rip, single: single)
        }
        let code = segment(SegmentRegister.cs)
        if cache.codeSegmentChanged(code) { flushCodeLookups() }
        let linear = (code.base &+ rip) & 0xFFFF_FFFF
        if !single, let block = cachedBlock(linear), block.rip == rip { return block }
        return try lookUpBlock(cache, linear, single: single)
    }

    private func lookUpBlock(
        _ cache: CodeCache, _ linear: UInt64, single: Bool
    ) throws(Fault) -> Block {
        counters.lookups &+= 1
        // Before the page is noted: the note must outlive the new generation.
        if cache.free < Self.largestBlock { startAgain() }
        let page = try fetchPage(cache, linear)
        let physical = page.physical | (linear & 0xFFF)
        let modeKey = unsafe state.pointee.modeKey
        let key = single ? modeKey | ModeKey.singleStep : modeKey
        var secondFault: Fault?
        let generation = codeGeneration
        let found = cache.find(
            physical: physical, linear: linear, key: key, generation: generation
        ) { block in
            do throws(Fault) {
                return try isCurrent(block, page, linear)
            } catch {
                // The part behind the page border cannot be fetched.
                secondFault = error
                return true
            }
        }
        if let secondFault { throw secondFault }
        let block: Block
        if let found, renew(cache, found, linear) {
            block = found
            counters.found &+= 1
        } else {
            block = try buildBlock(cache, page, linear, key: key)
        }
        if !single && !block.isTransient {
            unsafe jumpEntry(linear).pointee = JumpEntry(
                linear: linear, key: lookupKey, block: block.address)
        }
        return block
    }

    /// The page of code at a linear address, which is translated and marked once in a generation.
    /// If another CPU's write takes the mark away meanwhile, a new generation is about to begin.
    private func fetchPage(_ cache: CodeCache, _ linear: UInt64) throws(Fault) -> FetchPage {
        let page = linear >> 12
        let index = Int(page ^ page >> 6) & (CodeCache.fetchEntries - 1)
        // SAFETY: the table has as many entries.
        let entry = unsafe cache.fetchPages + index
        if unsafe entry.pointee.page == page && entry.pointee.key == lookupKey {
            return unsafe FetchPage(
                physical: entry.pointee.physical, host: entry.pointee.host)
        }
        let found = try translateFetch(linear)
        if unsafe found.host != nil { markCode(physical: found.physical) }
        unsafe entry.pointee = FetchEntry(
            page: page, key: lookupKey, physical: found.physical, host: found.host)
        return found
    }

    /// Makes a block that was found one of the current generation, and likewise the others in its
    /// code; but not the code that those have of their own, which may have others again.
    /// - Returns: `false` if the others cannot be where it is. It is dead then.
    private func renew(_ cache: CodeCache, _ block: Block, _ linear: UInt64) -> Bool {
        let (header, generation) = unsafe (block.header, codeGeneration)
        if block.generation == generation && block.isHostCurrent(generation) { return true }
        let isWhole = block.allParts { part in
            let offset = unsafe part.header.pointee.physical & 0xFFF
            return settle(cache, part, at: linear & ~0xFFF | offset, generation)
        }
        guard isWhole else { return discard(block) }
        _ = settle(cache, block, at: linear, generation)
        // Where exits of a trace go is known when all of it is where it belongs.
        if unsafe header.pointee.hasDoubtfulLinks || header.pointee.partCount > 0 {
            cache.checkLinks(of: block)
        }
        block.setHostGeneration(generation)
        return true
    }

    /// Moves a block, if that is necessary and possible, and lets the interpreter run it.
    private func settle(
        _ cache: CodeCache, _ block: Block, at linear: UInt64, _ generation: UInt32
    ) -> Bool {
        if unsafe block.header.pointee.linear != linear {
            if block.generation == generation { return false }
            forgetJump(to: block)
            cache.move(block, to: linear, generation: generation)
            counters.moved &+= 1
        }
        block.renew(generation)
        return true
    }

    /// The block will not be where the jump cache and indirect branches may have it.
    private func forgetJump(to block: Block) {
        removeTarget(block)
        let entry = unsafe jumpEntry(block.header.pointee.linear)
        if unsafe entry.pointee.block == block.address { unsafe entry.pointee.key = 0 }
    }

    /// Whether a candidate's bytes are still what is in memory.
    private func isCurrent(
        _ block: Block, _ page: FetchPage, _ linear: UInt64
    ) throws(Fault) -> Bool {
        let header = unsafe block.header
        guard unsafe header.pointee.rip == rip || header.pointee.linear != linear,
            let host = unsafe page.host
        else { return false }
        let offset = Int(linear & 0xFFF)
        let count = unsafe Int(header.pointee.byteCount)
        if !is64Bit, unsafe header.pointee.codeLimit != segment(SegmentRegister.cs).limit {
            return false
        }
        let inPage = min(count, 4096 - offset)
        // The page has been marked by `fetchPage`.
        if offset <= 4096 - BlockHeader.startSize {
            let size = BlockHeader.startSize
            guard unsafe block.hasStart(host + offset),
                unsafe inPage <= size
                    || memcmp(host + offset + size, block.bytes + size, inPage - size) == 0
            else { return discard(block) }
        } else if unsafe memcmp(host + offset, block.bytes, inPage) != 0 {
            return discard(block)
        }
        // They are whole, in the same page.
        let isWhole = block.allParts { part in
            let header = unsafe part.header
            let offset = unsafe Int(header.pointee.physical & 0xFFF)
            return unsafe !header.pointee.isDead
                && memcmp(host + offset, part.bytes, Int(header.pointee.byteCount)) == 0
        }
        guard isWhole else { return discard(block) }
        if inPage < count {
            let next = (linear &+ UInt64(inPage)) & (is64Bit ? UInt64.max : 0xFFFF_FFFF)
            let second = try translateFetch(next)
            guard unsafe second.physical == header.pointee.secondPage,
                let host = unsafe second.host
            else { return false }
            markCode(physical: second.physical)
            guard unsafe memcmp(host, block.bytes + inPage, count - inPage) == 0 else {
                return discard(block)
            }
        }
        return true
    }

    private func discard(_ block: Block) -> Bool {
        block.kill()
        counters.outdated &+= 1
        return false
    }

    // MARK: Invalidation

    /// Empties the jump cache and cuts the connections between blocks.
    func flushCodeLookups() {
        for view in 0..<2 { flushCodeLookups(view: view) }
    }

    private func flushCodeLookups(view: Int) {
        counters.generations[view] &+= 1
        if !fields.codeViews[view].renew() { invalidateAllCode() }
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
        for view in 0..<2 where fields.codeViews[view].mayHaveCode(at: linear) {
            flushCodeLookups(view: view)
        }
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
        removeTargets()
        for view in 0..<2 where !fields.codeViews[view].renew() {
            fields.codeViews[view] = CodeView()
        }
    }
}
