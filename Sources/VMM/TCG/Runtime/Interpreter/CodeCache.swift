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
    let table: UnsafeMutablePointer<UInt32>
    let pageTable: UnsafeMutablePointer<UInt32>
    private let arena: UnsafeMutableRawPointer
    let arenaSize: Int
    /// Offset 0 means "none".
    private(set) var regions: CodeRegions
    /// Which blocks have translated code where.
    var notes: EvictionNotes
    /// What CS was when blocks of 16- or 32-bit code were last looked up.
    private var codeBase: UInt64 = 0
    private var codeLimit: UInt32 = 0

    /// Translates blocks that run often, if that is wanted.
    let translator: HostTranslator?
    /// The translator's, so that nobody counts references to it for each run.
    // SAFETY: as long as the translator.
    private let entry: HostStubs.Enter?
    /// Room for a block of one operation.
    let singleBlock: UnsafeMutablePointer<BlockHeader>

    /// Pages that code was fetched from.
    let fetchPages: UnsafeMutablePointer<FetchEntry>
    static let fetchEntries = 256

    /// The translations by which supervisor mode's code was fetched.
    var supervisorCode = CodeTranslations()

    /// What is known about the code of other address spaces.
    let savedSpaces = SavedSpaces()

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
        regions = CodeRegions(64..<arenaSize, count: CodeRegions.count(for: arenaSize))
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
        unsafe entry = translator?.entry
        notes = EvictionNotes(
            regions: regions.count, codeRegions: translator?.arena.hot.count ?? 0)
    }

    deinit { unsafe _ = munmap(mapping, mappingSize) }

    /// Runs a block's translated code, and what it leads to.
    /// - Returns: what the code has left in R9.
    @inline(__always)
    func run(_ block: Block, _ cpu: CPU) -> UInt {
        guard let entry = unsafe entry else { return 0 }
        return unsafe entry(UnsafeMutableRawPointer(cpu.state), block.header.pointee.host)
    }

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
    func bucket(_ physical: UInt64, _ linear: UInt64, _ key: UInt32) -> Int {
        let page = key & ModeKey.codeSize == 8 ? 0 : (linear >> 12) &* 0xD6E8_FEB8_6659_FD93
        let mixed = (physical ^ page ^ UInt64(key) << 20) &* 0x9E37_79B9_7F4A_7C15
        return Int(mixed >> 32) & (buckets - 1)
    }

    /// Calls `isRight` with candidates until it returns `true`.
    ///
    /// - Parameter mayMove: whether a block may be moved from a linear address.
    func find(
        physical: UInt64, linear: UInt64, key: UInt32,
        mayMove: (Block) -> Bool, _ isRight: (Block) -> Bool
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
                } else if unsafe header.pointee.canMove {
                    candidates.add(candidate, live: savedSpaces.liveGenerations, mayMove: mayMove)
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

    // MARK: 16- and 32-bit code

    /// Whether CS's base or limit is another than at the last call.
    func codeSegmentChanged(_ segment: Segment) -> Bool {
        if segment.base == codeBase && segment.limit == codeLimit { return false }
        codeBase = segment.base
        codeLimit = segment.limit
        return true
    }
}
