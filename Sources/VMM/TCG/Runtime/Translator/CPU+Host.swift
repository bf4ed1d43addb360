internal import Core
internal import Synchronization

// Into translated code and out of it.

extension CPU {
    private var frame: UnsafeMutableRawPointer {
        // SAFETY: the frame is in front of the FXSAVE image (see HostFrame.swift).
        unsafe UnsafeMutableRawPointer(state) - Int(HostFrame.state)
    }

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
        let budget = fields.budget
        fields.retired &+= UInt64(bitPattern: budgetMark &- budget)
        budgetMark = budget
    }

    /// Runs a translated block and what follows.
    func runHost(_ block: Block, _ translator: HostTranslator) -> BlockExit {
        budgetMark = fields.budget
        frameFlags = HostFlags.packed(arithmeticFlags)
        unsafe frame.storeBytes(
            of: lookupKey, toByteOffset: Int(HostFrame.lookupKey), as: UInt64.self)
        setHostCheck()
        let left = translator.run(block, self)
        // Left by the interpreter, which has seen to everything.
        if left == 0 { return .none }
        settle()
        setArithmeticFlags(HostFlags.unpacked(frameFlags))
        guard let last = Block(address: left & (1 << 48 - 1)) else { return .none }
        switch left >> 48 {
        case 1:
            rip = unsafe last.header.pointee.nextRIP
            return BlockExit(block: last.address, edge: .next)
        case 2:
            rip = unsafe last.header.pointee.takenRIP
            return BlockExit(block: last.address, edge: .taken)
        default:
            rip = last.rip
            return .none
        }
    }

    /// Lets translated code run as long as there is no exit request.
    private func setHostCheck() {
        // SAFETY: an aligned word of the state, which other threads store to atomically.
        unsafe withUnsafeMutablePointer(to: &state.pointee.hostCheck) { check in
            let word = unsafe UnsafeMutableRawPointer(check).assumingMemoryBound(
                to: Atomic<UInt32>.self)
            unsafe word.pointee.store(
                state.pointee.codeGeneration, ordering: .sequentiallyConsistent)
            if hasExitRequest { unsafe word.pointee.store(0, ordering: .relaxed) }
        }
    }

    /// Executes one operation of a translated block.
    /// - Returns: whether translated code goes on behind it.
    func interpret(_ packed: UInt, hasFlags: Bool) -> Bool {
        settle()
        if hasFlags { setArithmeticFlags(HostFlags.unpacked(frameFlags)) }
        guard let block = Block(address: packed & (1 << 48 - 1)), let cache = codeCache else {
            return false
        }
        let number = Int(packed >> 48)
        let op = unsafe OperationPointer(block.operations.pointer + number)
        let single = cache.single(block, op)
        let generation = fields.codeGeneration
        let next = block.nextRIP(op)
        let isLast = op.code.endsBlock
        // Without budget nothing is followed.
        let budget = fields.budget
        fields.budget = min(budget, 0)
        let before = fields.budget
        let exit = run(single)
        fields.budget = budget &+ (fields.budget &- before)
        let goesOn =
            !isLast && exit.edge != .faulted && rip == next
            && generation == fields.codeGeneration && !hasExitRequest
        if goesOn {
            frameFlags = HostFlags.packed(arithmeticFlags)
            budgetMark = fields.budget
        } else {
            let rest = max(0, Int64(block.count) - Int64(number) - 1)
            fields.budget &+= rest
            fields.retired &-= UInt64(rest)
        }
        return goesOn
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
