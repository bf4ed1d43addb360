// Blocks that go because there is no room: a region at a time, those that have been there for the
// longest time. What leads to them is undone first: the tables, links of translated code, traces that
// they are part of. What is keyed by the generation (the jump cache, the interpreter's connections)
// means nothing any more, because a new one begins.

// SAFETY: as in CodeCache. A region's blocks lie one behind the other.
extension CodeCache {
    func region(of block: Block) -> Int { regions.region(of: Int(offset(block))) }

    /// A block has been translated.
    func noteTranslation(_ block: Block) {
        guard let translator else { return }
        var others: UInt64 = 0
        _ = block.allParts { part in
            others |= 1 << UInt64(region(of: part))
            return true
        }
        notes.add(
            offset(block), in: region(of: block), others: others,
            code: translator.region(of: block))
    }

    /// Calls `body` with all blocks of a region, dead ones too.
    func forEachBlock(in region: Int, _ body: (Block) -> Void) {
        let used = regions.used(region)
        var offset = used.lowerBound
        while offset < used.upperBound {
            let block = block(UInt32(offset))
            body(block)
            offset += (block.size + 63) & ~63
        }
    }

    /// Calls `body` with all blocks of other regions whose code holds blocks of this one.
    func forEachTrace(with region: Int, _ body: (Block) -> Void) {
        notes.forEachTrace(with: region) { offset in
            let head = block(offset)
            let isWithout = head.allParts { self.region(of: $0) != region }
            if !isWithout { body(head) }
        }
    }

    /// Calls `body` with all blocks whose code is in a region of the translator's arena.
    func forEachBlock(withCodeIn codeRegion: Int, _ body: (Block) -> Void) {
        guard let translator else { return }
        for place in notes.take(codeRegion) where notes.isCurrent(place) {
            let block = block(place.offset)
            guard unsafe block.header.pointee.host != 0, translator.region(of: block) == codeRegion
            else { continue }
            body(block)
        }
    }

    /// Takes the blocks of the next region out of the tables, and goes on there. Nothing else leads to
    /// them any more.
    func emptyNextRegion() {
        let region = regions.next
        let range = regions.used(region)
        // Most of a region's blocks share a few pages, whose chains are long.
        var seen = PageBucketSet()
        forEachBlock(in: region) { block in
            let header = unsafe block.header.pointee
            remove(range, fromBucketOf: header)
            let first = pageBucket(header.physical)
            if seen.insert(first) { remove(range, fromPageBucket: first) }
            if header.secondPage == UInt64.max { return }
            let second = pageBucket(header.secondPage)
            if seen.insert(second) { remove(range, fromPageBucket: second) }
        }
        notes.age(region)
        advance()
    }
}

/// Which lists of blocks by page have been seen to.
private struct PageBucketSet {
    private var words = [UInt64](repeating: 0, count: CodeCache.pageBuckets / 64)

    /// - Returns: whether it was not there yet.
    mutating func insert(_ bucket: Int) -> Bool {
        let (word, bit) = (bucket >> 6, UInt64(1) << UInt64(bucket & 63))
        if words[word] & bit != 0 { return false }
        words[word] |= bit
        return true
    }
}
