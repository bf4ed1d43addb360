// The lists that blocks are in: those of a page, to find what a write changes, and all lists, to take
// the blocks of a region out of them.

// SAFETY: as in CodeCache: links are offsets of blocks in the arena.
extension CodeCache {
    func pageBucket(_ physical: UInt64) -> Int {
        Int(((physical >> 12) &* 0x9E37_79B9_7F4A_7C15) >> 50) & (Self.pageBuckets - 1)
    }

    /// Kills the blocks with bytes in `first...last`, which lies in one page, and counts them.
    /// - Returns: whether no other blocks of the page are left.
    func invalidate(_ first: UInt64, _ last: UInt64, _ count: inout UInt64) -> Bool {
        let page = first & ~0xFFF
        let slot = unsafe pageTable + pageBucket(page)
        var link = unsafe slot.pointee
        var isEmpty = true
        var place = unsafe slot
        while link != 0 {
            let candidate = block(link & ~1)
            let header = unsafe candidate.header
            let isSecond = link & 1 != 0
            let next =
                unsafe isSecond ? header.pointee.nextOnSecondPage : header.pointee.nextOnPage
            let isHere =
                unsafe isSecond
                ? header.pointee.secondPage == page : header.pointee.physical & ~0xFFF == page
            if isHere, overlaps(candidate, isSecond: isSecond, first, last) {
                candidate.kill()
                count &+= 1
                unsafe place.pointee = next
            } else {
                if isHere && candidate.key & BlockHeader.dead == 0 { isEmpty = false }
                unsafe place = linkPlace(candidate, isSecond: isSecond)
            }
            link = next
        }
        return isEmpty
    }

    // Looked up once: a key path is a good part of Swift's runtime.
    private static let firstLinkOffset = MemoryLayout.offset(of: \BlockHeader.nextOnPage) ?? 0
    private static let secondLinkOffset =
        MemoryLayout.offset(of: \BlockHeader.nextOnSecondPage) ?? 0
    private static let bucketLinkOffset = MemoryLayout.offset(of: \BlockHeader.nextInBucket) ?? 0

    /// Where a block's link to the next one on the page is.
    private func linkPlace(_ block: Block, isSecond: Bool) -> UnsafeMutablePointer<UInt32> {
        unsafe linkPlace(block, isSecond ? Self.secondLinkOffset : Self.firstLinkOffset)
    }

    private func linkPlace(_ block: Block, _ offset: Int) -> UnsafeMutablePointer<UInt32> {
        unsafe (UnsafeMutableRawPointer(block.header) + offset)
            .assumingMemoryBound(to: UInt32.self)
    }

    private func overlaps(
        _ block: Block, isSecond: Bool, _ first: UInt64, _ last: UInt64
    ) -> Bool {
        let header = unsafe block.header
        if unsafe header.pointee.isDead { return true }
        let start = unsafe header.pointee.physical
        if isSecond {
            let inFirst = 4096 - (start & 0xFFF)
            let rest = unsafe UInt64(header.pointee.byteCount) - inFirst
            return unsafe first < header.pointee.secondPage + rest
        }
        let (low, high) = unsafe (header.pointee.codeStart, header.pointee.codeEnd)
        return UInt16(first & 0xFFF) < high && low <= UInt16(last & 0xFFF)
    }

    // MARK: By region

    /// Takes the blocks at some offsets out of the list that one of them is in.
    func remove(_ offsets: Range<Int>, fromBucketOf header: BlockHeader) {
        let number = bucket(header.physical, header.linear, header.key & ~BlockHeader.dead)
        var place = unsafe table + number
        while true {
            let link = unsafe place.pointee
            if link == 0 { return }
            let candidate = block(link)
            if offsets.contains(Int(link)) {
                unsafe place.pointee = candidate.header.pointee.nextInBucket
            } else {
                unsafe place = linkPlace(candidate, Self.bucketLinkOffset)
            }
        }
    }

    /// Takes them out of one of the lists by page.
    func remove(_ offsets: Range<Int>, fromPageBucket number: Int) {
        var place = unsafe pageTable + number
        while true {
            let link = unsafe place.pointee
            if link == 0 { return }
            let candidate = block(link & ~1)
            let next = unsafe linkPlace(candidate, isSecond: link & 1 != 0)
            if offsets.contains(Int(link)) {
                unsafe place.pointee = next.pointee
            } else {
                unsafe place = next
            }
        }
    }
}
