internal import Core

/// The translated code of one CPU: the arena and what leads into it.
// SAFETY: stubs and code live as long as the arena, which this object has.
@safe final class HostTranslator {
    private let arena: HostArena
    private let stubs: HostStubs
    private let entry: HostStubs.Enter
    /// There was no room for a block: everything is to be forgotten.
    private(set) var isFull = false
    private(set) var blockCount = 0

    /// Runs in the interpreter before a block is translated.
    static let usualThreshold: Int32 = 16

    /// - Parameters:
    ///   - capacity: bytes for code. Memory is taken as it is added.
    ///   - hasAVX: guests have YMM registers.
    init(capacity: Int, hasAVX: Bool) throws(SystemError) {
        arena = try HostArena(capacity: capacity, coldCapacity: capacity / 8 * 5)
        stubs = unsafe HostStubs(arena, hasAVX: hasAVX, helper: hostHelper, fill: hostFill)
        let address = arena.address(stubs.enter)
        // SAFETY: the stub follows the C convention, and lives as long as the arena.
        unsafe entry = unsafeBitCast(address, to: HostStubs.Enter.self)
    }

    /// Writes a block's code, if there is room.
    func translate(_ block: Block) {
        var translation = HostBlock(block, arena, stubs)
        translation.run()
        guard !translation.isFull else {
            isFull = true
            return
        }
        let header = unsafe block.header
        unsafe header.pointee.host = arena.address(translation.frameEntry)
        unsafe header.pointee.nativeEntry = UInt32(translation.nativeEntry)
        unsafe header.pointee.hostCheck = arena.writable(translation.checkPlace)
        unsafe header.pointee.nextJump = HostJump(translation.exits.next)
        unsafe header.pointee.takenJump = HostJump(translation.exits.taken)
        unsafe header.pointee.plainNextJump = HostJump(translation.plainExits.next)
        unsafe header.pointee.plainTakenJump = HostJump(translation.plainExits.taken)
        unsafe header.pointee.heat = -1
        arena.commit(translation.ends.usual, cold: translation.ends.rare)
        blockCount += 1
    }

    /// Makes a block's exit go straight to another block's code.
    func connect(_ exit: BlockExit, to target: Block, generation: UInt32) {
        guard let block = Block(address: exit.block) else { return }
        if exit.edge == .stale { return replace(block, by: target) }
        let (from, to) = unsafe (block.header.pointee, target.header.pointee)
        let isTaken = exit.edge == .taken
        guard block.generation == generation, exit.edge != .faulted, to.host != 0 else { return }
        connect(isTaken ? from.takenJump : from.nextJump, to)
        connect(isTaken ? from.plainTakenJump : from.plainNextJump, to)
    }

    private func connect(_ jump: HostJump, _ target: BlockHeader) {
        guard jump.place != 0 else { return }
        arena.patch(
            Int(jump.place),
            to: jump.hasNativeFlags ? Int(target.nativeEntry) : arena.offset(of: target.host))
    }

    /// What jumps to the code of a dead block finds the block in its place.
    private func replace(_ dead: Block, by target: Block) {
        let (old, new) = unsafe (dead.header.pointee, target.header.pointee)
        guard old.isDead, old.host != 0, new.host != 0, old.linear == new.linear,
            old.key & ~BlockHeader.dead == new.key
        else { return }
        let (entry, newEntry) = (arena.offset(of: old.host), arena.offset(of: new.host))
        let hasTwo = entry != Int(old.nativeEntry)
        // Where one entry was for both, what comes from it is not known.
        guard hasTwo || newEntry == Int(new.nativeEntry) else { return }
        arena.writeJump(at: entry, to: newEntry)
        if hasTwo { arena.writeJump(at: Int(old.nativeEntry), to: Int(new.nativeEntry)) }
    }

    func removeAll() {
        arena.removeAll()
        isFull = false
        blockCount = 0
    }

    /// Runs a block's code, and what it leads to. The result is what the code has left in R9.
    func run(_ block: Block, _ cpu: CPU) -> UInt {
        unsafe entry(UnsafeMutableRawPointer(cpu.state), block.header.pointee.host)
    }
}

/// A jump from a block's code to the block that follows.
struct HostJump: BitwiseCopyable {
    /// Where its distance is in the arena, or 0.
    var place: UInt32 = 0
    /// The arithmetic flags are in EFLAGS there, otherwise in the frame.
    var hasNativeFlags = false

    init() {}

    init(_ jump: (place: Int, flags: HostBlock.FlagPlace)) {
        place = UInt32(jump.place)
        hasNativeFlags = jump.flags == .native
    }
}

/// What translated code calls: see `CPU.interpret`.
let hostHelper: HostStubs.Helper = { state, packed, hasFlags in
    // SAFETY: translated code passes its own CPU's state.
    let cpu = unsafe CPU(state.assumingMemoryBound(to: VCPUState.self))
    return cpu.interpret(packed, hasFlags: hasFlags != 0) ? 0 : 1
}

/// What it calls where its look into the soft TLB fails: see `CPU.reach`.
let hostFill: HostStubs.Fill = { state, linear, access in
    // SAFETY: translated code passes its own CPU's state.
    let cpu = unsafe CPU(state.assumingMemoryBound(to: VCPUState.self))
    return cpu.reach(linear, HostAccess(rawValue: access))
}
