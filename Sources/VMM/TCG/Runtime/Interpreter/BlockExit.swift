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
