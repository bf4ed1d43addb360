internal import Core

// Room for more code. Only between two blocks: nothing that goes is running.

extension CPU {
    /// Forgets the oldest of the decoded blocks. What was left to get to the next block may be among
    /// them: the generation is another one afterwards.
    func makeRoomForBlocks(_ cache: CodeCache) {
        let region = cache.regions.next
        if cache.regions.used(region).isEmpty { return cache.advance() }
        let start = Clock.monotonic()
        flushCodeLookups()
        cache.forEachTrace(with: region) { forgetCode(of: $0, cache) }
        cache.forEachBlock(in: region) { block in
            counters.evictions.blocks &+= 1
            forgetCode(of: block, cache)
        }
        cache.emptyNextRegion()
        counters.evictions.regions &+= 1
        noteEviction(since: start)
    }

    /// Forgets the oldest translated code, because there is no room for that of a block, or leaves the
    /// block to the interpreter if nothing can be done.
    func makeRoomForCode(_ cache: CodeCache, _ translator: HostTranslator, for block: Block) {
        guard !translator.arena.isRegionEmpty else {
            unsafe block.header.pointee.heat = BlockHeader.never
            return
        }
        let next = translator.arena.hot.next
        if translator.arena.hot.used(next).isEmpty { return translator.advance() }
        let start = Clock.monotonic()
        cache.forEachBlock(withCodeIn: next) { forgetCode(of: $0, cache) }
        translator.advance()
        counters.evictions.codeRegions &+= 1
        noteEviction(since: start)
    }

    /// Nothing leads to a block's translated code any more, and the interpreter goes on with it.
    private func forgetCode(of block: Block, _ cache: CodeCache) {
        guard unsafe block.header.pointee.host != 0 else { return }
        counters.evictions.codes &+= 1
        removeTarget(block)
        cache.cutLinks(of: block)
        block.forgetCode(threshold: fields.translationThreshold)
    }

    private func noteEviction(since start: UInt64) {
        let time = Clock.monotonic() &- start
        counters.evictions.longest = max(counters.evictions.longest, time)
    }
}
