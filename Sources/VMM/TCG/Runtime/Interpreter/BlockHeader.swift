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
    /// Where the translated code is entered with the flags in the frame, or 0.
    var host: UInt = 0
    /// Where the translated code has the generation, or `nil`.
    // SAFETY: part of the translator's arena; `nil` again before the code is overwritten.
    var hostCheck: UnsafeMutableRawPointer?
    /// Runs in the interpreter until the block is translated, which a negative number says;
    /// `never` for blocks that stay the interpreter's.
    var heat: Int32 = BlockHeader.never
    /// Other generations in which it was looked up at this address, the latest one first.
    var otherGenerations = OtherGenerations()

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
    /// The guest-physical page of the part behind a page border, or all ones.
    var secondPage: UInt64 = UInt64.max
    /// CS's limit, for 16- and 32-bit code.
    var codeLimit: UInt32 = UInt32.max
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
