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
    // SAFETY: part of the arena, which is emptied together with the blocks.
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
    /// The block may not be found again: its bytes are not in memory.
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
    var nextJump = HostJump()
    var takenJump = HostJump()
    /// The same of the code that looks into the TLB for each access, where there are both.
    var plainNextJump = HostJump()
    var plainTakenJump = HostJump()
    /// The jumps of other blocks' code that lead here, and what this block's own are linked to.
    var incoming = BlockLink.none
    var nextLink = BlockLink()
    var takenLink = BlockLink()
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
// overwritten only when the whole arena is flushed, which happens between blocks.
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

    /// One run less until the block is translated.
    @inline(__always)
    func coolDown() {
        let heat = unsafe header.pointee.heat
        if heat >= 0 && heat != BlockHeader.never { unsafe header.pointee.heat = heat - 1 }
    }

    /// The block may run in this generation. Translated code has it too.
    func setGeneration(_ generation: UInt32) {
        unsafe header.pointee.generation = generation
        unsafe header.pointee.hostCheck?.storeBytes(of: generation, as: UInt32.self)
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
        setGeneration(UInt32.max)
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
