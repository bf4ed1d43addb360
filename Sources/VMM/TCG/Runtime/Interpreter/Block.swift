/// The head of a decoded block. Its operations follow, then a copy of the instruction bytes.
///
/// What is needed to find a block again is in the first cache line, and what it is compared with in
/// the second one.
@safe struct BlockHeader: BitwiseCopyable {
    /// The linear address of the first byte, and its guest-physical address.
    var linear: UInt64
    var physical: UInt64
    /// `ModeKey`, with `BlockHeader.dead` once the block is dead. A dying block may still be
    /// running, so the code size stays.
    var key: UInt32
    /// The CPU's `codeGeneration` when the block was last looked up (and its bytes compared).
    var generation: UInt32 = 0
    /// The offset of the next block in the same bucket of the hash table, 0 at the end.
    var nextInBucket: UInt32 = 0
    var byteCount: UInt16 = 0
    /// The block can be moved to another linear address.
    var canMove = false
    /// A block that it is linked to has moved.
    var hasDoubtfulLinks = false
    /// The guest-physical page of the part behind a page border, or all ones.
    var secondPage: UInt64 = UInt64.max
    /// Where the translated code is entered with the flags in the frame, or 0.
    var host: UInt = 0
    /// Where the translated code has the generation, or `nil`.
    // SAFETY: part of the translator's arena; `nil` again before the code is overwritten.
    var hostCheck: UnsafeMutableRawPointer?
    /// Runs in the interpreter until the block is translated, which a negative number says;
    /// `never` for blocks that stay the interpreter's.
    var heat: Int32 = BlockHeader.never
    /// CS's limit, for 16- and 32-bit code.
    var codeLimit: UInt32 = UInt32.max

    /// The first instruction bytes, and zeroes.
    var start = InlineArray<4, UInt64>(repeating: 0)
    static let startSize = 32
    /// The blocks at `nextRIP` and `takenRIP`, once known: addresses of headers or 0. Valid while
    /// `generation` is the CPU's.
    var nextBlock: UInt = 0
    var takenBlock: UInt = 0
    /// RIP of the first instruction.
    var rip: UInt64
    /// Instructions, operations (one more where the block ends without a branch).
    var count: UInt16 = 0
    var operationCount: UInt16 = 0
    /// The block may not be found again: its bytes are not in memory, or may change without notice.
    var isTransient = false

    /// RIP after the last instruction, and where its direct branch goes.
    var nextRIP: UInt64
    var takenRIP: UInt64
    /// Offsets of the next blocks in the same buckets of the page table (for the first and for the
    /// second page), 0 at the end.
    var nextOnPage: UInt32 = 0
    var nextOnSecondPage: UInt32 = 0
    /// Where in the arena translated code is entered with the flags in EFLAGS.
    var nativeEntry: UInt32 = 0
    /// Its bytes from there on, and in the arena's second part.
    var hostSize: UInt32 = 0
    var rarePlace: UInt32 = 0
    var rareSize: UInt32 = 0
    /// `BlockComparison.word`, or 0 while that is not known.
    var comparison: UInt16 = 0
    /// The jumps of other blocks' code that lead here: the first one's name.
    var incoming = BlockLink.none
    /// Where in the translator's arena the exits of the code are, one `HostExit` after the other.
    var exits: UInt32 = 0
    var exitCount: UInt8 = 0
    /// How many other blocks are part of the translated code, and their addresses.
    var partCount: UInt8 = 0
    // SAFETY: as `hostCheck`.
    var parts: UnsafeMutablePointer<UInt>?
    /// Offsets in the first page of the bytes that the translated code depends on: of the first
    /// one, and behind the last.
    var codeStart: UInt16 = 0
    var codeEnd: UInt16 = 0
    /// Instructions that the translated code counts when it begins.
    var hostCount: UInt16 = 0
    /// Where in the arena the places of `movingCount` addresses in the code are listed.
    var movingCount: UInt16 = 0
    var movingTable: UInt32 = 0
    /// The operations with addresses to be moved, a bit for each.
    var movingOperations: UInt64 = 0
    /// The pages where it was before, the latest one first.
    var formerPages = FormerPages()

    static let never = Int32.max

    static let dead: UInt32 = 1 << 31

    var isDead: Bool { key & Self.dead != 0 }
}

/// A decoded block.
// SAFETY: headers lie in the code cache's arena, which lives as long as the CPU; a block is
// overwritten only after its region has been emptied, which happens between blocks.
@safe struct Block {
    let header: UnsafeMutablePointer<BlockHeader>

    @inline(__always)
    init(_ header: UnsafeMutablePointer<BlockHeader>) { unsafe self.header = header }

    @inline(__always)
    init?(address: UInt) {
        guard let header = unsafe UnsafeMutablePointer<BlockHeader>(bitPattern: address) else {
            return nil
        }
        unsafe self.header = header
    }

    @inline(__always) var address: UInt { UInt(bitPattern: unsafe header) }
    @inline(__always) var rip: UInt64 { unsafe header.pointee.rip }
    @inline(__always) var count: UInt16 { unsafe header.pointee.count }
    @inline(__always) var key: UInt32 { unsafe header.pointee.key }
    var isTransient: Bool { unsafe header.pointee.isTransient }
    @inline(__always) var generation: UInt32 { unsafe header.pointee.generation }

    /// Whether a look for a block with these finds it.
    @inline(__always)
    func isAt(physical: UInt64, linear: UInt64, key: UInt32) -> Bool {
        let header = unsafe header
        return unsafe header.pointee.linear == linear && header.pointee.physical == physical
            && header.pointee.key == key
    }

    /// One run less until the block is translated.
    @inline(__always)
    func coolDown() {
        let heat = unsafe header.pointee.heat
        if heat >= 0 && heat != BlockHeader.never { unsafe header.pointee.heat = heat - 1 }
    }

    /// The block may run in this generation, but not its translated code.
    func renew(_ generation: UInt32) {
        if unsafe header.pointee.generation == generation { return }
        unsafe header.pointee.generation = generation
        unsafe header.pointee.nextBlock = 0
        unsafe header.pointee.takenBlock = 0
    }

    /// The translated code, if there is some, may run in this generation.
    func setHostGeneration(_ generation: UInt32) {
        unsafe header.pointee.hostCheck?.storeBytes(of: generation, as: UInt32.self)
    }

    func isHostCurrent(_ generation: UInt32) -> Bool {
        guard let check = unsafe header.pointee.hostCheck else { return true }
        return unsafe check.load(as: UInt32.self) == generation
    }

    /// There is no translated code any more; nothing leads there.
    /// - Parameter threshold: runs in the interpreter before there is some again.
    func forgetCode(threshold: Int32) {
        unsafe (header.pointee.host, header.pointee.nativeEntry) = (0, 0)
        unsafe (header.pointee.hostSize, header.pointee.rarePlace) = (0, 0)
        unsafe header.pointee.rareSize = 0
        unsafe header.pointee.hostCheck = nil
        unsafe (header.pointee.exits, header.pointee.exitCount) = (0, 0)
        unsafe (header.pointee.movingTable, header.pointee.movingCount) = (0, 0)
        unsafe (header.pointee.parts, header.pointee.partCount) = (nil, 0)
        unsafe header.pointee.hostCount = 0
        noteRange()
        if unsafe !header.pointee.isDead { unsafe header.pointee.heat = threshold }
    }

    /// Notes the bytes that the block itself depends on.
    func noteRange() {
        let start = unsafe UInt16(truncatingIfNeeded: header.pointee.physical & 0xFFF)
        unsafe header.pointee.codeStart = start
        unsafe header.pointee.codeEnd = min(4096, start + header.pointee.byteCount)
    }

    // MARK: Other blocks in the translated code

    // SAFETY: `place` has room for their addresses.
    func setTrace(_ trace: HostTrace, _ place: UnsafeMutableRawPointer) {
        let parts = unsafe place.assumingMemoryBound(to: UInt.self)
        for (index, part) in trace.blocks.dropFirst().enumerated() {
            unsafe parts[index] = part.address
        }
        unsafe header.pointee.parts = parts
        unsafe header.pointee.partCount = UInt8(trace.blocks.count - 1)
        unsafe header.pointee.hostCount = UInt16(trace.count)
        guard trace.blocks.count > 1 else { return }
        unsafe (header.pointee.codeStart, header.pointee.codeEnd) = trace.range
    }

    /// Whether `isRight` says so of all other blocks.
    func allParts(_ isRight: (Block) -> Bool) -> Bool {
        for index in 0..<(unsafe Int(header.pointee.partCount)) {
            // SAFETY: as many as are there.
            guard let part = unsafe Block(address: header.pointee.parts.unsafelyUnwrapped[index]),
                isRight(part)
            else { return false }
        }
        return true
    }

    static let headerSize = (MemoryLayout<BlockHeader>.size + 63) & ~63

    @inline(__always)
    var operations: OperationPointer {
        unsafe OperationPointer(
            (UnsafeMutableRawPointer(header) + Self.headerSize)
                .assumingMemoryBound(to: Operation.self))
    }

    /// The copy of the instruction bytes.
    var bytes: UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(header) + Self.headerSize
            + Int(header.pointee.operationCount) * MemoryLayout<Operation>.stride
    }

    /// Bytes in the code cache.
    var size: Int {
        unsafe Self.headerSize + Int(header.pointee.operationCount) * MemoryLayout<Operation>.stride
            + Int(header.pointee.byteCount)
    }

    /// Notes the first of the bytes where `hasStart` looks for them.
    func noteStart() {
        let count = unsafe min(Int(header.pointee.byteCount), BlockHeader.startSize)
        for index in 0..<count {
            let byte = unsafe bytes.load(fromByteOffset: index, as: UInt8.self)
            unsafe header.pointee.start[index >> 3] |= UInt64(byte) << UInt64(8 * (index & 7))
        }
    }

    /// Whether 32 bytes, which are in one page, begin with the block's.
    // SAFETY: the caller has as many.
    @inline(__always)
    func hasStart(_ memory: UnsafeRawPointer) -> Bool {
        var left = unsafe Int(header.pointee.byteCount)
        for index in 0..<4 {
            let word = unsafe memory.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            let difference = unsafe word ^ header.pointee.start[index]
            if left <= 8 { return difference << UInt64(64 - 8 * left) == 0 }
            if difference != 0 { return false }
            left -= 8
        }
        return true
    }

    /// RIP of the instruction after `op`, and of `op` itself.
    @inline(__always)
    func nextRIP(_ op: OperationPointer) -> UInt64 { wrapped(rip &+ UInt64(op.nextOffset)) }

    @inline(__always)
    func rip(of op: OperationPointer) -> UInt64 {
        wrapped(rip &+ UInt64(op.nextOffset) &- UInt64(op.length))
    }

    @inline(__always)
    private func wrapped(_ rip: UInt64) -> UInt64 {
        key & ModeKey.codeSize == 8 ? rip : rip & 0xFFFF_FFFF
    }

    var operationBuffer: UnsafeMutableBufferPointer<Operation> {
        unsafe UnsafeMutableBufferPointer(
            start: operations.pointer, count: Int(header.pointee.operationCount))
    }

    /// Makes every operation stop, so that a running block ends after its current instruction.
    func kill() {
        unsafe header.pointee.key |= BlockHeader.dead
        // Translated code that jumps here finds that it may not run.
        unsafe header.pointee.generation = UInt32.max
        setHostGeneration(UInt32.max)
        let operations = unsafe operationBuffer
        for index in operations.indices { unsafe operations[index].code = .stop }
    }
}

/// One of the two ways out of a block, to be connected with the block that follows.
struct BlockExit {
    enum Edge {
        case next, taken
        /// An exception was delivered.
        case faulted
        /// The block itself may not run any more.
        case stale
    }

    var block: UInt
    var edge: Edge
    /// The address of the `HostExit` that translated code has left by, or 0. It is part of the
    /// arena, and means something until the next block is looked up.
    var host: UInt = 0

    /// Nothing to connect.
    static let none = BlockExit(block: 0, edge: .next)
    static let faulted = BlockExit(block: 0, edge: .faulted)

    @inline(__always)
    func connect(to target: Block, generation: UInt32) {
        guard let block = Block(address: block), block.generation == generation,
            leads(from: block, to: target)
        else { return }
        switch edge {
        case .next: unsafe block.header.pointee.nextBlock = target.address
        case .taken: unsafe block.header.pointee.takenBlock = target.address
        case .faulted, .stale: break
        }
    }

    /// Where translated code has been overwritten, what takes its place will run as often.
    @inline(__always)
    func warmUp(_ new: Block) {
        guard edge == .stale, let old = Block(address: block),
            unsafe old.header.pointee.isDead && old.header.pointee.heat < 0
        else { return }
        let heat = unsafe new.header.pointee.heat
        if heat != BlockHeader.never { unsafe new.header.pointee.heat = min(heat, 2) }
    }

    /// Whether `target` is where the exit of `block` goes, which may have moved since it was left.
    @inline(__always)
    func leads(from block: Block, to target: Block) -> Bool {
        switch edge {
        case .next: unsafe block.header.pointee.nextRIP == target.rip
        case .taken: unsafe block.header.pointee.takenRIP == target.rip
        case .faulted, .stale: false
        }
    }
}
