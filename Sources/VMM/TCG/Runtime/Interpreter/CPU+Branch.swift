// From one block to the next, and out of the middle of one.
//
// A block that ends with a direct branch knows the blocks on both sides once they have been found:
// `je` at the end of A follows `takenBlock` or `nextBlock` without leaving the loop. What is not
// known, or not any more, ends the run with a `BlockExit`, and the outer loop connects the two.
// Indirect branches look into the jump cache.

// SAFETY: headers are read through blocks that were found or connected in this generation, and
// blocks live as long as the cache (see Block).
extension CPU {
    @inline(__always)
    func follow(
        if condition: Condition, _ block: inout Block, _ op: inout OperationPointer,
        _ exit: inout BlockExit
    ) -> Bool {
        if self.condition(condition) {
            return follow(.taken, &block, &op, &exit)
        } else {
            return follow(.next, &block, &op, &exit)
        }
    }

    /// Goes to the block that is connected to one of this block's exits. `false`: there is none, or
    /// something wants attention; RIP is set in any case.
    @inline(__always)
    func follow(
        _ edge: BlockExit.Edge, _ block: inout Block, _ op: inout OperationPointer,
        _ exit: inout BlockExit
    ) -> Bool {
        let header = unsafe block.header
        let address: UInt
        switch edge {
        case .next:
            rip = unsafe header.pointee.nextRIP
            address = unsafe header.pointee.nextBlock
        case .taken:
            rip = unsafe header.pointee.takenRIP
            address = unsafe header.pointee.takenBlock
        case .faulted, .stale: address = 0
        }
        let generation = codeGeneration
        guard unsafe header.pointee.generation == generation, let next = Block(address: address),
            next.generation == generation, begin(next)
        else {
            exit = BlockExit(block: block.address, edge: edge)
            return false
        }
        block = next
        op = next.operations
        return true
    }

    /// An indirect branch faults itself when its target cannot be an address.
    @inline(__always)
    func canonicalTarget(_ target: UInt64) throws(Fault) -> UInt64 {
        guard isCanonical(target) else { throw .generalProtection(0) }
        return target
    }

    /// An indirect branch of 64-bit code.
    @inline(__always)
    func jump(
        _ target: UInt64, _ block: inout Block, _ op: inout OperationPointer
    ) -> Bool {
        rip = target
        guard let next = cachedBlock(target), begin(next) else { return false }
        block = next
        op = next.operations
        return true
    }

    /// Counts a block's instructions, if they fit the budget and nobody wants the CPU.
    @inline(__always)
    func begin(_ block: Block) -> Bool {
        let left = budget &- Int64(block.count)
        block.coolDown()
        // Translated blocks, and those that are to be, are the outer loop's.
        if unsafe left < 0 || hasExitRequest || block.header.pointee.heat < 0 { return false }
        budget = left
        unsafe state.pointee.retired &+= UInt64(block.count)
        return true
    }

    // MARK: Leaving in the middle

    /// Leaves before `op`.
    func stop(_ block: Block, _ op: OperationPointer) -> BlockExit {
        rip = block.rip(of: op)
        uncount(block, from: op)
        return .none
    }

    @inline(never)
    func fault(_ fault: Fault, _ block: Block, _ op: OperationPointer) {
        rip = block.rip(of: op)
        uncount(block, from: op)
        deliver(isStackFault(fault, op) ? .stackFault(0) : fault)
    }

    /// A non-canonical address is #SS if the stack segment was used (SDM volume 3,
    /// section 6.15); `load` and `store` cannot know.
    private func isStackFault(_ fault: Fault, _ op: OperationPointer) -> Bool {
        guard is64Bit, fault == .generalProtection(0) else { return false }
        if op.segment == SegmentRegister.ss, !op.form.isDisjoint(with: .hasMemory),
            leavesAddresses(effectiveOffset(op), memorySize(op))
        {
            return true
        }
        let stack = self[Register.rsp]
        switch op.code {
        case .pushR64, .pushI64, .pushM64, .call64, .callR64, .callM64:
            return leavesAddresses(stack &- 8, 8)
        case .popR64, .ret64, .retImmediate64: return leavesAddresses(stack, 8)
        case .leave64: return leavesAddresses(self[Register.rbp], 8)
        default: return false
        }
    }

    /// Whether some of the bytes are where no addresses are.
    private func leavesAddresses(_ address: UInt64, _ size: Int) -> Bool {
        !isCanonical(address) || !isCanonical(address &+ UInt64(size - 1))
    }

    /// Bytes of an operation's memory operand. Where it has to be aligned, the first one tells.
    private func memorySize(_ op: OperationPointer) -> Int {
        guard let leaf = op.leaf else { return max(1, Int(op.size)) }
        return leaf.flags.contains(.aligned) ? 1 : leaf.memorySize
    }
}
