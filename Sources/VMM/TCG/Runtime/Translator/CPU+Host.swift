internal import Core
internal import Synchronization

// Into translated code and out of it.

extension CPU {
    private var frameFlags: UInt32 {
        get { unsafe frame.load(fromByteOffset: Int(HostFrame.flags), as: UInt32.self) }
        nonmutating set {
            unsafe frame.storeBytes(
                of: newValue, toByteOffset: Int(HostFrame.flags), as: UInt32.self)
        }
    }

    private var budgetMark: Int64 {
        get { unsafe frame.load(fromByteOffset: Int(HostFrame.mark), as: Int64.self) }
        nonmutating set {
            unsafe frame.storeBytes(of: newValue, toByteOffset: Int(HostFrame.mark), as: Int64.self)
        }
    }

    /// Counts what translated code has taken from the budget.
    private func settle() {
        let left = budget
        fields.retired &+= UInt64(bitPattern: budgetMark &- left)
        budgetMark = left
    }

    /// Runs a translated block and what follows.
    func runHost(_ block: Block, _ cache: CodeCache) -> BlockExit {
        budgetMark = budget
        frameFlags = HostFlags.packed(arithmeticFlags)
        setHostCheck()
        let retired = fields.retired
        let left = cache.run(block, self)
        if left != 0 { settle() }
        counters.noteRun(of: fields.retired &- retired)
        // Left by the interpreter, which has seen to everything.
        if left == 0 { return .none }
        setArithmeticFlags(HostFlags.unpacked(frameFlags))
        guard let (reason, address) = LeaveReason.parts(left) else { return .none }
        if reason == .exit { return leave(by: address) }
        guard let last = Block(address: address) else { return .none }
        switch reason {
        case .unmasked:
            // Exceptions that the guest has not masked are not for the host to take.
            counters.exits.unmasked &+= 1
            rip = last.rip
            guard Int64(last.count) <= budget else { return .none }
            count(last)
            return run(last)
        case .target:
            counters.exits.indirect &+= 1
            rip = unsafe frame.load(fromByteOffset: Int(HostFrame.target), as: UInt64.self)
            return .none
        case .start, .exit:
            if noteStale() { fields.staleBlock = last.address }
            rip = last.rip
            return BlockExit(block: last.address, edge: .stale)
        }
    }

    /// - Parameter address: a `HostExit`'s.
    private func leave(by address: UInt) -> BlockExit {
        // SAFETY: translated code leaves with addresses in the arena, which is still the same.
        guard let host = unsafe UnsafeMutablePointer<HostExit>(bitPattern: address),
            let last = unsafe Block(address: host.pointee.block)
        else { return .none }
        counters.exits.unconnected &+= 1
        rip = unsafe host.pointee.rip
        return unsafe BlockExit(block: last.address, edge: host.pointee.edge, host: address)
    }

    /// Translated code has the vector or x87 registers, and some exception is not masked any more.
    private var mayRaise: Bool {
        // SAFETY: as in `frame`.
        let vectors = unsafe frame.load(fromByteOffset: Int(HostFrame.vectors), as: UInt16.self)
        if vectors & HostFrame.Vectors.x87 != 0,
            controlWord & X87Status.exceptions != X87Status.exceptions
        {
            return true
        }
        return vectors != 0 && mxcsr & MXCSR.masks != MXCSR.masks
    }

    /// Lets translated code run as long as there is no exit request.
    private func setHostCheck() {
        // SAFETY: an aligned word of the frame, which other threads store to atomically.
        let word = unsafe (frame + Int(HostFrame.check)).assumingMemoryBound(
            to: Atomic<UInt32>.self)
        unsafe word.pointee.store(codeGeneration, ordering: .sequentiallyConsistent)
        if hasExitRequest { unsafe word.pointee.store(0, ordering: .relaxed) }
    }

    /// Executes one operation of a translated block.
    /// - Returns: whether translated code goes on behind it.
    func interpret(_ packed: UInt, hasFlags: Bool) -> Bool {
        settle()
        if hasFlags { setArithmeticFlags(HostFlags.unpacked(frameFlags)) }
        let before = unsafe (state.pointee.flagResult, state.pointee.flagAux)
        guard let block = Block(address: packed & (1 << 48 - 1)) else { return false }
        let generation = codeGeneration
        let killed = counters.killed
        // SAFETY: the number is one of the block's operations.
        let op = unsafe OperationPointer(block.operations.pointer + Int(packed >> 48))
        noteInterpreted(op, of: block)
        switch perform(op, of: block) {
        case .left:
            counters.exits.operations &+= 1
            return false
        case .faulted:
            counters.exits.exceptions &+= 1
            return false
        case .done: break
        }
        // What is running may depend on more than this block's bytes.
        if block.generation == generation, generation == codeGeneration,
            counters.killed == killed, !hasExitRequest, !mayRaise
        {
            // What has not been written is still in the frame.
            let after = unsafe (state.pointee.flagResult, state.pointee.flagAux)
            if !hasFlags || before != after { frameFlags = HostFlags.packed(arithmeticFlags) }
            budgetMark = budget
            return true
        }
        counters.exits.operations &+= 1
        rip = block.nextRIP(op)
        uncount(block, from: op.next)
        return false
    }

    private enum Outcome {
        case done
        /// RIP says where to go on, and what has not been executed has been taken back.
        case left
        /// The same after an exception.
        case faulted
    }

    private func perform(_ op: OperationPointer, of block: Block) -> Outcome {
        do throws(Fault) {
            switch op.code {
            case .enableInterrupts:
                return try enableInterrupts(op, of: block, isAlone: true) ? .done : .left
            case .general:
                try general(op)
                return .done
            case .leaf:
                try leaf(op, rip: block.rip(of: op))
                return .done
            case .string:
                if try string(op) { return .done }
                _ = stop(block, op)
                return .left
            case .transfer:
                rip = block.rip(of: op)
                if try !transfer(op, nextRIP: block.nextRIP(op)) { uncount(block, from: op) }
                return .left
            default: return performAlone(op, of: block)
            }
        } catch {
            fault(error, block, op)
            return .faulted
        }
    }

    /// Has the interpreter run a block of this operation alone.
    private func performAlone(_ op: OperationPointer, of block: Block) -> Outcome {
        let single = single(block, op)
        let next = block.nextRIP(op)
        let isLast = op.code.endsBlock
        let number = Int64(op.number)
        let rest = max(0, Int64(block.count) - number - 1)
        let exit = runUnfollowed(single)
        if !isLast && exit.edge != .faulted && rip == next { return .done }
        budget &+= rest
        fields.retired &-= UInt64(rest)
        return exit.edge == .faulted ? .faulted : .left
    }

    /// A block of its own for one operation of another one.
    private func single(_ block: Block, _ op: OperationPointer) -> Block {
        // SAFETY: the room is the code cache's, and translated blocks are in one.
        let single = unsafe Block(state.pointee.singleBlock.unsafelyUnwrapped)
        let (from, to) = unsafe (block.header, single.header)
        // Nothing else is looked at: the generation, which no block has, says that its exits lead
        // nowhere.
        unsafe to.pointee.generation = 0
        unsafe to.pointee.rip = from.pointee.rip
        unsafe to.pointee.nextRIP = from.pointee.nextRIP
        unsafe to.pointee.takenRIP = from.pointee.takenRIP
        unsafe to.pointee.key = from.pointee.key & ~BlockHeader.dead
        unsafe to.pointee.count = UInt16(op.number) + 1
        unsafe to.pointee.operationCount = 2
        var stop = Operation(.stop)
        stop.number = op.number &+ 1
        stop.nextOffset = op.nextOffset
        unsafe single.operations.pointer[0] = op.pointer.pointee
        unsafe single.operations.pointer[1] = stop
        return single
    }
}

extension OperationCode {
    /// What follows is not the next operation.
    fileprivate var endsBlock: Bool {
        switch rawValue {
        case Self.jo.rawValue...Self.jg.rawValue,
            Self.jump.rawValue...Self.retImmediate64.rawValue:
            true
        default:
            switch self {
            case .stop, .fallThrough, .transfer, .undefined, .tooLong: true
            default: false
            }
        }
    }
}
