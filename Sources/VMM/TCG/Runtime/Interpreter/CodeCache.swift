internal import Glibc

/// One entry of the jump cache: where the block for a linear address is.
struct JumpEntry: BitwiseCopyable {
    var linear: UInt64
    /// The mode key and the generation, see `CPU.lookupKey`.
    var key: UInt64
    var block: UInt
}

/// A page that code was fetched from.
// SAFETY: `host` is used only in the generation in which it was found.
@safe struct FetchEntry: BitwiseCopyable {
    var page: UInt64
    /// As in the jump cache.
    var key: UInt64
    var physical: UInt64
    var host: UnsafeMutableRawPointer?
}

/// The decoded blocks of one CPU: an arena that is filled and emptied region by region
/// (CodeCache+Eviction.swift), a hash table to find blocks by address and mode, and a second one to
/// find them by guest-physical page. On top of it, in front of the hash table, is the jump cache.
///
/// Blocks in the hash table are only candidates: other processes write to guest memory, so the
/// bytes are compared whenever a block is found there. What is reached through the jump cache and
/// through the connections between blocks has been compared in the same *generation*. A change of
/// the address space, a write to code and an outside change of memory begin a new generation,
/// which empties the jump cache and cuts all connections at once.
// SAFETY: one mapping with the tables and the arena at offsets computed from their sizes; block
// offsets are made by `allocate` alone.
@safe final class CodeCache {
    static let jumpEntries = 65536
    private static let jumpSize = jumpEntries * MemoryLayout<JumpEntry>.stride
    static let pageBuckets = 1 << 14

    /// Slots of the hash table, a power of two: about as many as there can be blocks.
    private let buckets: Int

    private let mapping: UnsafeMutableRawPointer
    private let mappingSize: Int
    let jumpCache: UnsafeMutablePointer<JumpEntry>
    private let table: UnsafeMutablePointer<UInt32>
    private let pageTable: UnsafeMutablePointer<UInt32>
    private let arena: UnsafeMutableRawPointer
    let arenaSize: Int
    /// Offset 0 means "none".
    private(set) var regions: CodeRegions
    /// What must be looked at when a region is emptied.
    var notes: EvictionNotes
    /// How many blocks writes to their bytes have killed.
    private(set) var killCount: UInt64 = 0
    /// What CS was when blocks of 16- or 32-bit code were last looked up.
    private var codeBase: UInt64 = 0
    private var codeLimit: UInt32 = 0

    /// Translates blocks that run often, if that is wanted.
    let translator: HostTranslator?
    /// Room for a block of one operation.
    let singleBlock: UnsafeMutablePointer<BlockHeader>

    /// Pages that code was fetched from.
    let fetchPages: UnsafeMutablePointer<FetchEntry>
    static let fetchEntries = 256

    /// The translations by which supervisor mode's code was fetched.
    var supervisorCode = CodeTranslations()

    /// What is known about the code of other address spaces.
    var savedSpaces = SavedSpaces()

    /// Where instruction bytes are collected for decoding.
    let scratch: UnsafeMutablePointer<UInt8>
    static let scratchSize = 64 * 15 + 32

    private static let singleSize = Block.headerSize + 2 * MemoryLayout<Operation>.stride

    /// - Parameter arenaSize: bytes for blocks. Memory is taken as they are added.
    init?(
        arenaSize: Int, translates: Bool = false, hasAVX: Bool = false,
        files: TCGFiles = TCGFiles(), keepsMarks: Bool = false
    ) {
        buckets = 1 << (Int.bitWidth - 1 - (arenaSize / 512).leadingZeroBitCount)
        let jumpSize = Self.jumpSize
        let tableSize = buckets * 4
        let pageTableSize = Self.pageBuckets * 4
        self.arenaSize = arenaSize
        regions = CodeRegions(64..<arenaSize)
        notes = EvictionNotes(regions: CodeRegions.usualCount)
        let scratchOffset = jumpSize + tableSize + pageTableSize
        let singleOffset = (scratchOffset + Self.scratchSize + 63) & ~63
        let fetchOffset = (singleOffset + Self.singleSize + 63) & ~63
        let fetchSize = Self.fetchEntries * MemoryLayout<FetchEntry>.stride
        let arenaOffset = (fetchOffset + fetchSize + 4095) & ~4095
        mappingSize = arenaOffset + arenaSize
        let base = unsafe mmap(
            nil, mappingSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
            -1, 0)
        guard let base = unsafe base, unsafe base != MAP_FAILED else { return nil }
        unsafe mapping = base
        unsafe jumpCache = base.assumingMemoryBound(to: JumpEntry.self)
        unsafe table = (base + jumpSize).assumingMemoryBound(to: UInt32.self)
        unsafe pageTable = (base + jumpSize + tableSize).assumingMemoryBound(to: UInt32.self)
        unsafe scratch = (base + scratchOffset).assumingMemoryBound(to: UInt8.self)
        unsafe arena = base + arenaOffset
        unsafe singleBlock = (base + singleOffset).assumingMemoryBound(to: BlockHeader.self)
        unsafe fetchPages = (base + fetchOffset).assumingMemoryBound(to: FetchEntry.self)
        translator =
            translates
            ? try? HostTranslator(
                capacity: 2 * arenaSize, hasAVX: hasAVX, files: files, keepsMarks: keepsMarks)
            : nil
    }

    deinit { unsafe _ = munmap(mapping, mappingSize) }

    // MARK: Arena

    /// Bytes that are still free in the current region.
    @inline(__always)
    var free: Int { regions.free }

    /// Room for a block that is not in the tables yet. The caller has made sure that it fits.
    func allocate(_ size: Int) -> Block {
        let offset = regions.position
        regions.use(upTo: offset + (size + 63) & ~63)
        return unsafe Block((arena + offset).assumingMemoryBound(to: BlockHeader.self))
    }

    func block(_ offset: UInt32) -> Block {
        unsafe Block((arena + Int(offset)).assumingMemoryBound(to: BlockHeader.self))
    }

    func offset(_ block: Block) -> UInt32 {
        UInt32(truncatingIfNeeded: unsafe UnsafeMutableRawPointer(block.header) - arena)
    }

    /// Forgets all blocks.
    func removeAll() {
        translator?.removeAll()
        // All of it is zero again, and takes no memory. The tables are in front of the arena, and
        // nothing but them and the blocks outlives a call.
        unsafe _ = madvise(mapping, mappingSize, MADV_DONTNEED)
        regions.removeAll()
        notes.removeAll()
    }

    /// Goes on in the next region, whose blocks nobody reaches any more.
    func advance() { regions.advance() }

    /// Calls `body` with every page that has blocks, some pages more than once.
    func forEachPage(_ body: (UInt64) -> Void) {
        for bucket in 0..<Self.pageBuckets {
            var link = unsafe pageTable[bucket]
            while link != 0 {
                let header = unsafe block(link & ~1).header
                let isSecond = link & 1 != 0
                unsafe body(isSecond ? header.pointee.secondPage : header.pointee.physical & ~0xFFF)
                link = unsafe isSecond ? header.pointee.nextOnSecondPage : header.pointee.nextOnPage
            }
        }
    }

    // MARK: By address

    /// Code of 64 bits moves to where it is wanted, so that there are few blocks for the same
    /// bytes.
    private func bucket(_ physical: UInt64, _ linear: UInt64, _ key: UInt32) -> Int {
        let page = key & ModeKey.codeSize == 8 ? 0 : (linear >> 12) &* 0xD6E8_FEB8_6659_FD93
        let mixed = (physical ^ page ^ UInt64(key) << 20) &* 0x9E37_79B9_7F4A_7C15
        return Int(mixed >> 32) & (buckets - 1)
    }

    /// Calls `isRight` with candidates until it returns `true`.
    ///
    /// - Parameter generation: blocks that are not of this one can be moved.
    func find(
        physical: UInt64, linear: UInt64, key: UInt32, generation: UInt32,
        _ isRight: (Block) -> Bool
    ) -> Block? {
        let slot = unsafe table + bucket(physical, linear, key)
        var candidates = MoveCandidates()
        var before: Block?
        var link = unsafe slot.pointee
        while link != 0 {
            let candidate = block(link)
            let header = unsafe candidate.header
            let next = unsafe header.pointee.nextInBucket
            if unsafe header.pointee.isDead {
                // Blocks die in place; the chain is tidied by whoever comes along.
                if let before {
                    unsafe before.header.pointee.nextInBucket = next
                } else {
                    unsafe slot.pointee = next
                }
                link = next
                continue
            }
            if unsafe header.pointee.physical == physical && header.pointee.key == key {
                if unsafe header.pointee.linear == linear {
                    if isRight(candidate) { return candidate }
                } else if unsafe header.pointee.canMove, candidate.generation != generation {
                    candidates.add(candidate)
                }
            }
            before = candidate
            link = next
        }
        guard let found = candidates.choice(linear), isRight(found) else { return nil }
        return found
    }

    /// Puts a finished block into the tables.
    func insert(_ block: Block) {
        let header = unsafe block.header
        let slot =
            unsafe table
            + bucket(header.pointee.physical, header.pointee.linear, header.pointee.key)
        unsafe header.pointee.nextInBucket = slot.pointee
        unsafe slot.pointee = offset(block)
        block.noteRange()
        let page = unsafe pageTable + pageBucket(header.pointee.physical)
        unsafe header.pointee.nextOnPage = page.pointee
        unsafe page.pointee = offset(block)
        if unsafe header.pointee.secondPage != UInt64.max {
            let second = unsafe pageTable + pageBucket(header.pointee.secondPage)
            unsafe header.pointee.nextOnSecondPage = second.pointee
            unsafe second.pointee = offset(block) | 1
        }
    }

    // MARK: By page

    func pageBucket(_ physical: UInt64) -> Int {
        Int(((physical >> 12) &* 0x9E37_79B9_7F4A_7C15) >> 50) & (Self.pageBuckets - 1)
    }

    /// Kills the blocks with bytes in `first...last`, which lies in one page. Returns whether no
    /// other blocks of the page are left.
    func invalidate(_ first: UInt64, _ last: UInt64) -> Bool {
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
                killCount &+= 1
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

    // MARK: 16- and 32-bit code

    /// Whether CS's base or limit is another than at the last call.
    func codeSegmentChanged(_ segment: Segment) -> Bool {
        if segment.base == codeBase && segment.limit == codeLimit { return false }
        codeBase = segment.base
        codeLimit = segment.limit
        return true
    }
}
