// The same page of code at another linear address. Programs that are started again, and the
// libraries of all programs, are somewhere else each time; their pages are the same. A block of
// such a page is moved instead of being made again: what depends on RIP is in its header, in
// some operations, and in translated code in 64-bit constants that are listed.
//
// Only what may not run moves: a block that was looked up in the current generation stays, and
// the same page at a second address of one address space gets blocks of its own.

/// The last pages that a block was moved away from.
struct FormerPages: BitwiseCopyable {
    /// The low 32 bits of page numbers.
    private var first: UInt32 = 0
    private var second: UInt32 = 0
    private var third: UInt32 = 0

    mutating func append(_ linear: UInt64) {
        (third, second) = (second, first)
        first = UInt32(truncatingIfNeeded: linear >> 12)
    }

    func contains(_ linear: UInt64) -> Bool {
        let page = UInt32(truncatingIfNeeded: linear >> 12)
        return first == page || second == page || third == page
    }
}

/// Blocks that could be moved to an address where there is none.
struct MoveCandidates {
    private static let maximumVariants = 4

    /// The one that has not run for the longest time, and the same of those that no program will want
    /// where they are, as far as that is known.
    private var oldest: Block?
    private var oldestFree: Block?
    /// All of them, also those that may not move.
    private var count = 0

    /// - Parameters:
    ///   - live: the generations of the address spaces that the guest will come back to. They want
    ///     a block where it is.
    ///   - mayMove: whether a block may be moved from where it is. Not asked of those that would not be
    ///     chosen: it takes time.
    mutating func add(_ block: Block, live: GenerationSet, mayMove: (Block) -> Bool) {
        count += 1
        guard isOlder(block, oldestFree) else { return }
        if live.isEmpty || !block.isKnown(where: { live.contains($0) }) {
            if mayMove(block) { oldestFree = block }
        } else if isOlder(block, oldest), mayMove(block) {
            oldest = block
        }
    }

    private func isOlder(_ block: Block, _ other: Block?) -> Bool {
        other.map { block.generation < $0.generation } ?? true
    }

    /// The block to move to `linear`. Programs that run in turns get one each: a block is not taken
    /// from another program, and does not come back to where it was a short time ago, as long as there
    /// are few.
    func choice(_ linear: UInt64) -> Block? {
        guard let block = oldestFree ?? oldest else { return nil }
        if count >= Self.maximumVariants { return block }
        let isReturn = unsafe block.header.pointee.formerPages.contains(linear)
        return oldestFree == nil || isReturn ? nil : block
    }
}

// SAFETY: as in CodeCache.
extension CodeCache {
    /// Moves a block, which may not run in this generation, to another linear address.
    func move(_ block: Block, to linear: UInt64, generation: UInt32) {
        let header = unsafe block.header
        // It, or code that it is part of, might run there without being looked up again in address
        // spaces that have code on its page. Others where it ever ran were dropped when it left them, so
        // none of the generations that it knows can come back.
        unsafe savedSpaces.removeAll(at: header.pointee.linear)
        loosenLinks(to: block, generation: generation)
        let distance = unsafe linear &- header.pointee.linear
        unsafe header.pointee.formerPages.append(header.pointee.linear)
        unsafe header.pointee.linear = linear
        unsafe header.pointee.rip &+= distance
        unsafe header.pointee.nextRIP &+= distance
        unsafe header.pointee.takenRIP &+= distance
        moveOperations(block, by: Int64(bitPattern: distance))
        unsafe translator?.move(header, by: distance)
        checkLinks(of: block)
    }

    private func moveOperations(_ block: Block, by distance: Int64) {
        let operations = unsafe block.operationBuffer
        var left = unsafe block.header.pointee.movingOperations
        while left != 0 {
            let index = left.trailingZeroBitCount
            left &= left - 1
            let form = unsafe operations[index].form
            if form.contains(.relativeDisplacement) {
                unsafe operations[index].displacement &+= distance
            }
            if form.contains(.relativeImmediate) {
                unsafe operations[index].immediate &+= distance
            }
        }
    }
}

extension Block {
    /// Finds out whether and how the block can be moved. Low addresses are those of programs that
    /// are always in the same place, and have short constants.
    func prepareMoves() {
        guard key & (ModeKey.codeSize | ModeKey.user | ModeKey.singleStep) == 8 | ModeKey.user,
            rip >> 32 != 0
        else { return }
        var moving: UInt64 = 0
        let operations = unsafe operationBuffer
        for index in operations.indices {
            let op = unsafe operations[index]
            guard !op.form.isDisjoint(with: .isRelative) else { continue }
            // Addresses that are cut cannot be moved.
            if op.form.contains(.relativeImmediate) && op.size != 8 { return }
            let isCut = op.addressKind == .address32In64 || op.code == .lea32
            if op.form.contains(.relativeDisplacement) && isCut || index > 63 { return }
            // The address of Jcc is in the header alone.
            if !op.code.isConditionalJump { moving |= 1 << UInt64(index) }
        }
        unsafe header.pointee.movingOperations = moving
        unsafe header.pointee.canMove = true
    }
}
