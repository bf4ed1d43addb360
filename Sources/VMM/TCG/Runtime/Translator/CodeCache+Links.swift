// Jumps from one block's translated code to another's. Each block has a list of those that lead
// into it, because a block can move to another linear address (CodeCache+Moves.swift).
//
// What always holds for a block that may run, now or once the guest is back in an address space that
// is kept: its links lead to blocks at the addresses where its exits go. A block that may not run
// leaves its code before anything is done, so its links are looked at when it is looked up again.

/// An exit's link, in the list of the block that it leads to. An exit's name is its offset in the
/// translator's arena.
struct BlockLink: BitwiseCopyable {
    /// No block or exit.
    static let none: UInt32 = 0

    /// The block's offset in the code cache's arena.
    var target = BlockLink.none
    /// The exits before and behind this one in the target's list.
    var previous = BlockLink.none
    var next = BlockLink.none
}

// SAFETY: offsets in links are those of blocks and exits, and links are undone before either goes.
extension CodeCache {
    /// Makes a block's exit go straight to another block's code.
    func connect(_ exit: BlockExit, to target: Block, generation: UInt32) {
        guard let translator, let source = Block(address: exit.block),
            unsafe target.header.pointee.host != 0
        else { return }
        if exit.edge == .stale { return replace(source, by: target, generation: generation) }
        guard exit.host != 0, source.generation == generation,
            exit.leads(from: source, to: target)
        else { return }
        let name = translator.name(exit.host)
        guard unsafe owner(translator.exit(name)).generation == generation else { return }
        join(name, to: target)
    }

    /// The block whose code an exit is part of.
    private func owner(_ exit: UnsafePointer<HostExit>) -> Block {
        // SAFETY: exits are written with the address of a block.
        unsafe Block(address: exit.pointee.owner).unsafelyUnwrapped
    }

    private func join(_ name: UInt32, to target: Block) {
        guard let translator else { return }
        separate(name)
        let exit = unsafe translator.exit(name)
        let first = unsafe target.header.pointee.incoming
        unsafe exit.pointee.link = BlockLink(target: offset(target), next: first)
        if first != BlockLink.none { unsafe translator.exit(first).pointee.link.previous = name }
        unsafe target.header.pointee.incoming = name
        unsafe translator.connect(exit.pointee.jump, target.header)
        unsafe translator.connect(exit.pointee.plainJump, target.header)
    }

    /// Makes an exit leave translated code again.
    private func separate(_ name: UInt32) {
        guard let translator else { return }
        let exit = unsafe translator.exit(name)
        let old = unsafe exit.pointee.link
        guard old.target != BlockLink.none else { return }
        if old.previous != BlockLink.none {
            unsafe translator.exit(old.previous).pointee.link.next = old.next
        } else {
            unsafe block(old.target).header.pointee.incoming = old.next
        }
        if old.next != BlockLink.none {
            unsafe translator.exit(old.next).pointee.link.previous = old.previous
        }
        unsafe exit.pointee.link = BlockLink()
        unsafe translator.disconnect(exit.pointee.jump)
        unsafe translator.disconnect(exit.pointee.plainJump)
    }

    /// Calls `body` with the names of the exits of a block's code.
    private func forEachExit(_ block: Block, _ body: (UInt32) -> Void) {
        let (first, count) = unsafe (block.header.pointee.exits, block.header.pointee.exitCount)
        for number in 0..<UInt32(count) { body(first + number * UInt32(HostExit.stride)) }
    }

    /// Undoes all links to a block's code, and from there.
    func cutLinks(of block: Block) {
        forEachIncoming(block) { separate($0) }
        forEachExit(block) { separate($0) }
    }

    private func forEachIncoming(_ target: Block, _ body: (UInt32) -> Void) {
        guard let translator else { return }
        var name = unsafe target.header.pointee.incoming
        while name != BlockLink.none {
            let next = unsafe translator.exit(name).pointee.link.next
            body(name)
            name = next
        }
    }

    /// Leads what goes to a block that may not run to the block that is in its place now.
    private func replace(_ old: Block, by new: Block, generation: UInt32) {
        let (header, other) = unsafe (old.header, new.header)
        guard let translator,
            unsafe header != other && header.pointee.linear == other.pointee.linear,
            old.key & ~BlockHeader.dead == new.key
        else { return }
        let isDead = unsafe header.pointee.isDead
        if isDead { forEachExit(old) { separate($0) } }
        forEachIncoming(old) { name in
            if unsafe isDead || owner(translator.exit(name)).generation == generation {
                join(name, to: new)
            }
        }
    }

    // MARK: Blocks that move

    /// To be called before `target` moves. Links of blocks that may run are undone, in this generation
    /// or in one that the guest may come back to.
    func loosenLinks(to target: Block, generation: UInt32) {
        guard let translator else { return }
        let alive = savedSpaces.generations
        forEachIncoming(target) { name in
            let owner = unsafe owner(translator.exit(name))
            // Its code may run, and it may have been looked up elsewhere since, as part of other code.
            if owner.mayRun(in: { $0 == generation || alive.contains($0) }) {
                separate(name)
            } else {
                unsafe owner.header.pointee.hasDoubtfulLinks = true
            }
        }
    }

    /// Undoes a block's links that lead somewhere else than its exits. The other blocks in its
    /// code are where they belong.
    func checkLinks(of source: Block) {
        unsafe source.header.pointee.hasDoubtfulLinks = false
        guard let translator else { return }
        forEachExit(source) { name in
            let exit = unsafe translator.exit(name)
            let target = unsafe exit.pointee.link.target
            if target != BlockLink.none, unsafe block(target).rip != exit.pointee.rip {
                separate(name)
            }
        }
    }
}
