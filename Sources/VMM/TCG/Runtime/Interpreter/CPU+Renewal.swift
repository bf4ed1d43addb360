internal import Glibc

// Blocks that were known in an earlier generation: compared with memory, and moved.

extension CPU {
    /// Makes a block that was found one of the current generation, and likewise the others in its
    /// code; but not the code that those have of their own, which may have others again.
    /// - Returns: `false` if it cannot be where it is wanted, or if the others cannot be where it is. It
    ///   is dead then.
    func renew(_ cache: CodeCache, _ block: Block, _ linear: UInt64) -> Bool {
        let (header, generation) = unsafe (block.header, codeGeneration)
        if block.generation == generation && block.isHostCurrent(generation) { return true }
        if unsafe header.pointee.linear == linear, block.isKnown(in: generation) {
            block.comeBack(generation, others: cache.savedSpaces.generations)
            return true
        }
        // What has been fetched since it was found may have changed that: the second page.
        guard unsafe header.pointee.linear == linear || mayMove(block) else { return false }
        let isWhole = block.allParts { part in
            let offset = unsafe part.header.pointee.physical & 0xFFF
            let place = linear & ~0xFFF | offset
            // Programs that run in turns get parts of their own, as they get blocks.
            if unsafe part.header.pointee.linear != place,
                unsafe part.header.pointee.formerPages.contains(place)
            {
                return false
            }
            return settle(cache, part, at: place, generation)
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
            guard mayMove(block) else { return false }
            forgetJump(to: block)
            cache.move(block, to: linear, generation: generation)
            counters.moved &+= 1
        }
        block.renew(generation, others: cache.savedSpaces.generations)
        return true
    }

    /// Whether nothing runs a block in this generation where it is: neither itself nor, where the
    /// guest has come back to, code that it was part of then. What was looked up there is on a page that
    /// the view knows.
    func mayMove(_ block: Block) -> Bool {
        if block.generation == codeGeneration { return false }
        let linear = unsafe block.header.pointee.linear
        return !codeView.hasReturned || !codeView.mayHaveCode(at: linear)
    }

    /// The block will not be where the jump cache and indirect branches may have it.
    private func forgetJump(to block: Block) {
        removeTarget(block)
        let entry = unsafe jumpEntry(block.header.pointee.linear)
        if unsafe entry.pointee.block == block.address {
            unsafe entry.pointee = JumpEntry(linear: 0, key: 0, block: 0)
        }
    }

    /// Whether a candidate's bytes are still what is in memory.
    func isCurrent(
        _ block: Block, _ page: FetchPage, _ linear: UInt64
    ) throws(Fault) -> Bool {
        let header = unsafe block.header
        guard unsafe header.pointee.rip == rip || header.pointee.linear != linear,
            let host = unsafe page.host
        else { return false }
        if !is64Bit, unsafe header.pointee.codeLimit != segment(SegmentRegister.cs).limit {
            return false
        }
        // Compared a short time ago.
        let generation = codeGeneration
        if unsafe header.pointee.linear == linear {
            if block.generation == generation && block.isHostCurrent(generation) { return true }
            if block.isKnown(in: generation) { return true }
        }
        // The page has been marked by `fetchPage`.
        guard unsafe isSame(block, host) else { return discard(block) }
        let count = unsafe Int(header.pointee.byteCount)
        let inPage = min(count, 4096 - Int(linear & 0xFFF))
        if inPage < count {
            let next = (linear &+ UInt64(inPage)) & (is64Bit ? UInt64.max : 0xFFFF_FFFF)
            let second = try translateFetch(next)
            guard unsafe second.physical == header.pointee.secondPage,
                let host = unsafe second.host
            else { return false }
            markCode(physical: second.physical)
            if isUnsettled(physical: second.physical) { return false }
            guard unsafe memcmp(host, block.bytes + inPage, count - inPage) == 0 else {
                return discard(block)
            }
            // The walk may have set bits of an entry that is part of the block.
            if unsafe header.pointee.isDead { return false }
        }
        return true
    }

    /// Whether a block's bytes in its first page, and those of the others in its code, are what is
    /// at `host`.
    private func isSame(_ block: Block, _ host: UnsafeMutableRawPointer) -> Bool {
        guard unsafe block.hasBytes(host) else { return false }
        // They are whole, in the same page.
        let generation = codeGeneration
        return block.allParts { part in
            unsafe part.generation == generation
                || !part.header.pointee.isDead && part.hasBytes(host)
        }
    }

    private func discard(_ block: Block) -> Bool {
        block.kill()
        counters.outdated &+= 1
        return false
    }
}

extension Block {
    /// Whether the block's bytes in its first page are what is there.
    // SAFETY: `page` is a whole page.
    fileprivate func hasBytes(_ page: UnsafeRawPointer) -> Bool {
        let offset = unsafe Int(header.pointee.physical & 0xFFF)
        let count = unsafe min(Int(header.pointee.byteCount), 4096 - offset)
        let size = BlockHeader.startSize
        guard offset <= 4096 - size else { return unsafe memcmp(page + offset, bytes, count) == 0 }
        return unsafe hasStart(page + offset)
            && (count <= size || memcmp(page + offset + size, bytes + size, count - size) == 0)
    }
}
