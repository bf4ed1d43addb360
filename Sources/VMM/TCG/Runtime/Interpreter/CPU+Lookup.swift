internal import Glibc

// From RIP to a decoded block.

extension CPU {
    /// Which of `codeViews` is the current mode's.
    @inline(__always)
    private var codeViewIndex: Int { Int(unsafe state.pointee.modeKey / ModeKey.user & 1) }

    /// What is known of the current mode's code.
    @inline(__always)
    var codeView: CodeView {
        _read { yield unsafe state.pointee.codeViews[unchecked: codeViewIndex] }
    }

    /// The generation of the current mode's code.
    @inline(__always)
    var codeGeneration: UInt32 {
        unsafe state.pointee.codeViews[unchecked: codeViewIndex].generation
    }

    /// Code of the current mode was fetched through a translation.
    /// - Parameter translation: the guest-physical page, with `TLBFlags`.
    @inline(__always)
    func noteCode(_ linear: UInt64, _ translation: UInt64) {
        let view = codeViewIndex
        unsafe state.pointee.codeViews[unchecked: view].note(linear, flags: translation)
        if view == 0 { codeCache?.supervisorCode.note(linear, translation) }
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

    /// The block that the jump cache knows at `linear` from another address space, if it is this one's.
    private func otherBlock(_ cache: CodeCache, _ linear: UInt64) -> Block? {
        let entry = unsafe jumpEntry(linear)
        // Blocks of a generation that has not been dropped are where they were.
        guard unsafe entry.pointee.linear == linear,
            unsafe cache.savedSpaces.generations.contains(
                UInt32(truncatingIfNeeded: entry.pointee.key >> 32)),
            let block = unsafe known(cache, Block(address: entry.pointee.block), linear)
        else { return nil }
        unsafe entry.pointee.key = lookupKey
        return block
    }

    /// A block if it was looked up at `linear` before the guest has come back to this generation.
    private func known(_ cache: CodeCache, _ block: Block?, _ linear: UInt64) -> Block? {
        guard let block, unsafe block.header.pointee.linear == linear,
            unsafe block.key == state.pointee.modeKey, block.isKnown(in: codeGeneration)
        else { return nil }
        block.comeBack(codeGeneration, others: cache.savedSpaces.generations)
        counters.known &+= 1
        return block
    }

    /// The block at RIP. `single`: one that holds a single instruction.
    func findBlock(_ cache: CodeCache, single: Bool) throws(Fault) -> Block {
        let stale = fields.staleBlock
        if stale != 0 { fields.staleBlock = 0 }
        if is64Bit {
            if !single,
                let block = stale == 0
                    ? cachedBlock(rip) ?? otherBlock(cache, rip)
                    : known(cache, Block(address: stale), rip)
            {
                return block
            }
            return try lookUpBlock(cache, rip, single: single, stale: Block(address: stale))
        }
        let code = segment(SegmentRegister.cs)
        if cache.codeSegmentChanged(code) { flushCodeLookups() }
        let linear = (code.base &+ rip) & 0xFFFF_FFFF
        if !single, let block = cachedBlock(linear), block.rip == rip { return block }
        return try lookUpBlock(cache, linear, single: single)
    }

    /// - Parameter stale: is looked at before others, if it has not been forgotten.
    private func lookUpBlock(
        _ cache: CodeCache, _ linear: UInt64, single: Bool, stale: Block? = nil
    ) throws(Fault) -> Block {
        counters.lookups &+= 1
        var stale = stale
        // Before the page is noted: the note must outlive the new generation.
        if cache.free < Self.largestBlock {
            makeRoomForBlocks(cache)
            stale = nil
        }
        limitGenerations()
        let page = try fetchPage(cache, linear)
        let physical = page.physical | (linear & 0xFFF)
        let modeKey = unsafe state.pointee.modeKey
        let key = single ? modeKey | ModeKey.singleStep : modeKey
        var secondFault: Fault?
        let isRight = { (block: Block) -> Bool in
            do throws(Fault) {
                return try isCurrent(block, page, linear)
            } catch {
                // The part behind the page border cannot be fetched.
                secondFault = error
                return true
            }
        }
        let found: Block?
        if isUnsettled(physical: physical) {
            found = nil
        } else if let stale, stale.isAt(physical: physical, linear: linear, key: key),
            isRight(stale)
        {
            found = stale
        } else {
            found = cache.find(
                physical: physical, linear: linear, key: key, mayMove: mayMove, isRight)
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
    /// If another CPU's write takes the mark away, a new generation is about to begin.
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
}
