// Jumps from one block's translated code to another's. Each block has a list of those that lead
// into it, because a block can move to another linear address (CodeCache+Moves.swift).
//
// What always holds for a block that may run, that is, one of the current generation: its links
// lead to blocks at the addresses where its exits go. A block that may not run leaves its code
// before anything is done, so its links are looked at when it is looked up again.

/// One of a block's two links, in the list of the block that it leads to.
struct BlockLink: BitwiseCopyable {
    /// No block or link.
    static let none: UInt32 = 0

    /// The block's offset in the arena.
    var target = BlockLink.none
    /// The links before and behind this one in the target's list: the offset of the block they
    /// come from, with bit 0 set for the taken one.
    var previous = BlockLink.none
    var next = BlockLink.none
}

// SAFETY: offsets in links are those of blocks, which live until the whole arena is emptied.
extension CodeCache {
    // Looked up once, as in CodeCache.swift.
    private static let nextLinkOffset = MemoryLayout.offset(of: \BlockHeader.nextLink) ?? 0
    private static let takenLinkOffset = MemoryLayout.offset(of: \BlockHeader.takenLink) ?? 0

    private func link(_ name: UInt32) -> UnsafeMutablePointer<BlockLink> {
        let offset = name & 1 != 0 ? Self.takenLinkOffset : Self.nextLinkOffset
        return unsafe (UnsafeMutableRawPointer(block(name & ~1).header) + offset)
            .assumingMemoryBound(to: BlockLink.self)
    }

    /// The exit's jumps: that of the usual code, and of the plain one (see `HostBlock`).
    private func jumps(_ name: UInt32) -> (HostJump, HostJump) {
        let header = unsafe block(name & ~1).header
        return unsafe name & 1 != 0
            ? (header.pointee.takenJump, header.pointee.plainTakenJump)
            : (header.pointee.nextJump, header.pointee.plainNextJump)
    }

    /// Makes a block's exit go straight to another block's code.
    func connect(_ exit: BlockExit, to target: Block, generation: UInt32) {
        guard translator != nil, let source = Block(address: exit.block),
            unsafe target.header.pointee.host != 0
        else { return }
        if exit.edge == .stale { return replace(source, by: target, generation: generation) }
        guard source.generation == generation, exit.leads(from: source, to: target)
        else { return }
        join(offset(source) | (exit.edge == .taken ? 1 : 0), to: target)
    }

    private func join(_ name: UInt32, to target: Block) {
        let jumps = jumps(name)
        guard let translator, jumps.0.place != 0 || jumps.1.place != 0 else { return }
        separate(name)
        let first = unsafe target.header.pointee.incoming
        unsafe link(name).pointee = BlockLink(target: offset(target), next: first)
        if first != BlockLink.none { unsafe link(first).pointee.previous = name }
        unsafe target.header.pointee.incoming = name
        unsafe translator.connect(jumps.0, target.header)
        unsafe translator.connect(jumps.1, target.header)
    }

    /// Makes a block's exit leave translated code again.
    private func separate(_ name: UInt32) {
        let link = unsafe link(name)
        let old = unsafe link.pointee
        guard old.target != BlockLink.none else { return }
        if old.previous != BlockLink.none {
            unsafe self.link(old.previous).pointee.next = old.next
        } else {
            unsafe block(old.target).header.pointee.incoming = old.next
        }
        if old.next != BlockLink.none {
            unsafe self.link(old.next).pointee.previous = old.previous
        }
        unsafe link.pointee = BlockLink()
        let jumps = jumps(name)
        translator?.disconnect(jumps.0)
        translator?.disconnect(jumps.1)
    }

    private func forEachIncoming(_ target: Block, _ body: (UInt32) -> Void) {
        var name = unsafe target.header.pointee.incoming
        while name != BlockLink.none {
            let next = unsafe link(name).pointee.next
            body(name)
            name = next
        }
    }

    /// Leads what goes to a block that may not run to the block that is in its place now.
    private func replace(_ old: Block, by new: Block, generation: UInt32) {
        let (header, other) = unsafe (old.header, new.header)
        guard unsafe header != other && header.pointee.linear == other.pointee.linear,
            old.key & ~BlockHeader.dead == new.key
        else { return }
        let isDead = unsafe header.pointee.isDead
        if isDead {
            separate(offset(old))
            separate(offset(old) | 1)
        }
        forEachIncoming(old) { name in
            if isDead || block(name & ~1).generation == generation { join(name, to: new) }
        }
    }

    // MARK: Blocks that move

    /// To be called before `target` moves. Links of blocks that may run are undone.
    func loosenLinks(to target: Block, generation: UInt32) {
        forEachIncoming(target) { name in
            let source = block(name & ~1)
            if source.generation == generation {
                separate(name)
            } else {
                unsafe source.header.pointee.hasDoubtfulLinks = true
            }
        }
    }

    /// Undoes a block's links that lead somewhere else than its exits.
    func checkLinks(of source: Block) {
        let header = unsafe source.header
        unsafe header.pointee.hasDoubtfulLinks = false
        let (next, taken) = unsafe (header.pointee.nextLink, header.pointee.takenLink)
        if next.target != BlockLink.none,
            unsafe block(next.target).rip != header.pointee.nextRIP
        {
            separate(offset(source))
        }
        if taken.target != BlockLink.none,
            unsafe block(taken.target).rip != header.pointee.takenRIP
        {
            separate(offset(source) | 1)
        }
    }
}
