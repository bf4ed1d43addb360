/// Blocks that are translated together, because each mostly follows the one before: they need one
/// look whether they may run, flags that the next one overwrites need not be kept, and their
/// accesses share looks into the soft TLB.
///
/// All are in the first one's page and of its mode, so that they are valid together: a change of
/// any byte between the first and the last of them ends all of it, and whoever looks the first
/// one up in a new generation compares the bytes of all.
struct HostTrace {
    /// The first one is whose code it will be.
    private(set) var blocks: [Block]
    /// Which way leads from each of them to the next.
    private(set) var edges: [BlockExit.Edge] = []
    /// Instructions.
    private(set) var count: Int

    /// The most instructions: so many that a byte holds their number.
    static let maximumCount = 100
    private static let maximumBlocks = 8
    /// The most of a loop that is repeated.
    private static let unrolledCount = 40

    /// - Parameter threshold: runs in the interpreter before a block is translated. Without any,
    ///   nobody knows what follows.
    init(_ head: Block, threshold: Int32) {
        blocks = [head]
        count = Int(head.count)
        guard threshold > 0, Self.isInOnePage(head) else { return }
        while blocks.count < Self.maximumBlocks {
            guard let last = blocks.last, let edge = Self.usualEdge(last, threshold),
                let next = Self.follower(last, edge)
            else { return }
            if next.address == head.address {
                unroll(edge)
                return
            }
            guard accepts(next) else { return }
            blocks.append(next)
            edges.append(edge)
            count += Int(next.count)
        }
    }

    /// Repeats a short loop, which `edge` leads back to its beginning.
    private mutating func unroll(_ edge: BlockExit.Edge) {
        let (loop, inner, once) = (blocks, edges, count)
        while blocks.count + loop.count <= Self.maximumBlocks, count + once <= Self.unrolledCount {
            blocks += loop
            edges.append(edge)
            edges += inner
            count += once
        }
    }

    /// Offsets in the page of the first byte of all, and of what is behind the last.
    var range: (start: UInt16, end: UInt16) {
        var (start, end) = (UInt64.max, UInt64(0))
        for block in blocks {
            let offset = unsafe block.header.pointee.physical & 0xFFF
            start = min(start, offset)
            end = unsafe max(end, offset + UInt64(block.header.pointee.byteCount))
        }
        return (UInt16(truncatingIfNeeded: start), UInt16(truncatingIfNeeded: end))
    }

    private static func isInOnePage(_ block: Block) -> Bool {
        unsafe block.header.pointee.secondPage == UInt64.max
    }

    // MARK: What follows

    /// The way out of a block that is taken at least every other time, if there is one.
    private static func usualEdge(_ block: Block, _ threshold: Int32) -> BlockExit.Edge? {
        let count = unsafe Int(block.header.pointee.operationCount)
        guard count > 0 else { return nil }
        // SAFETY: the last of the block's operations.
        let code = unsafe block.operations.pointer[count - 1].code
        switch code {
        case .fallThrough: return .next
        case .jump, .call64: return .taken
        default:
            guard code.isConditionalJump else { return nil }
            let (next, taken) = (heat(block, .next), heat(block, .taken))
            guard min(next, taken) <= threshold / 2 else { return nil }
            return taken < next ? .taken : .next
        }
    }

    private static func follower(_ block: Block, _ edge: BlockExit.Edge) -> Block? {
        let header = unsafe block.header
        let next =
            unsafe Block(
                address: edge == .taken ? header.pointee.takenBlock : header.pointee.nextBlock)
        // Links between blocks mean something in their generation only.
        return next?.generation == block.generation ? next : nil
    }

    /// How often the interpreter will still run what follows before it is translated.
    private static func heat(_ block: Block, _ edge: BlockExit.Edge) -> Int32 {
        guard let next = follower(block, edge) else { return Int32.max }
        return unsafe next.header.pointee.heat
    }

    private func accepts(_ next: Block) -> Bool {
        let head = blocks[0]
        let (first, header) = unsafe (head.header.pointee, next.header.pointee)
        // What has code of its own is jumped to.
        guard header.host == 0, header.heat != BlockHeader.never, !header.isTransient,
            header.key == first.key, header.canMove == first.canMove, Self.isInOnePage(next),
            header.physical & ~0xFFF == first.physical & ~0xFFF,
            header.linear & ~0xFFF == first.linear & ~0xFFF,
            count + Int(next.count) <= Self.maximumCount
        else { return false }
        if blocks.contains(where: { $0.address == next.address }) { return false }
        return HostBlock.neededVectors(next) & ~HostBlock.neededVectors(head) == 0
    }
}
