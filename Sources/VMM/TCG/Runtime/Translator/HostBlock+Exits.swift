internal import TCGDecoder

// Ways to the interpreter, and out of the block.

extension HostBlock {
    /// What is put into the arena's second part.
    enum Cold {
        /// Has the interpreter execute `count` operations, unless filling an entry of the soft TLB
        /// is enough.
        case helper(jump: Int, call: HelperCall, count: Int, resume: Int, fill: Fill?)
        /// Leaves by one of the block's exits. There are `countBehind` instructions that do not
        /// run then.
        case exit(jump: Int, number: Int, flags: FlagPlace, countBehind: Int)
        /// Leaves for the guest address in R9 with the stack pointer moved, unless it is none:
        /// that is for the interpreter.
        case target(jump: Int, call: HelperCall, stack: Int32)
        /// Leaves before the block has begun.
        case start(jump: Int, isCounted: Bool)
        /// Brings the guest's vector registers, or leaves the block to the interpreter.
        case vectors(jump: Int, stub: Int, resume: Int)

        /// The jump that leads there.
        var jump: Int {
            switch self {
            case .helper(let jump, _, _, _, _), .exit(let jump, _, _, _), .target(let jump, _, _),
                .start(let jump, _), .vectors(let jump, _, _):
                jump
            }
        }
    }

    /// What the interpreter is asked for.
    struct HelperCall {
        /// The block and the operation's number there, as R9 tells them.
        var packed: UInt64
        var operation: OperationPointer
        /// Where the flags are, if somebody reads them.
        var flags: FlagPlace?
        /// Instructions of the following blocks, which have been counted already.
        var countBehind: Int
    }

    /// For the operation that is being written.
    func helperCall(_ flags: FlagPlace?) -> HelperCall {
        let op = operation(index)
        return HelperCall(
            packed: UInt64(block.address) | UInt64(op.number) << 48, operation: op, flags: flags,
            countBehind: countBehind)
    }

    // MARK: The interpreter

    /// Has the interpreter execute the operation here, not only where something is out of the way.
    mutating func callHelper() {
        callHelper(helperCall(live == 0 ? nil : flags))
        flags = .native
    }

    mutating func callHelper(_ call: HelperCall) {
        held = nil
        changeBudget(call.countBehind)
        code.set(HostRegister.first, to: call.packed)
        let stub =
            switch call.flags {
            case .native?: stubs.helper
            case .frame?: stubs.helperWithFlagsInFrame
            case nil: stubs.helperWithoutFlags
            }
        code.call(stub)
        changeBudget(-call.countBehind)
    }

    /// Leaves the flags alone. Takes R10.
    private mutating func changeBudget(_ distance: Int) {
        guard distance != 0 else { return }
        let second = HostRegister.second
        code.load(second, HostFrame.slot(HostFrame.budget))
        code.lea(second, HostMemory(second, Int32(distance)))
        code.store(HostFrame.slot(HostFrame.budget), second)
    }

    /// What the code does not do itself from `jump` on is the interpreter's. Call `resume` where
    /// it goes on.
    mutating func orInterpret(_ jump: Int) {
        held = nil
        pending.append((jump, live == 0 ? nil : flags, nil))
    }

    /// The same where a look into the soft TLB has failed. The flags are in the frame.
    mutating func orFill(_ jump: Int, _ fill: Fill) {
        pending.append((jump, live == 0 ? nil : flags, fill))
    }

    /// The operation is complete here.
    mutating func resume() {
        // The helper comes back to here, and changes R9.
        if !pending.isEmpty { held = nil }
        for (jump, flags, fill) in pending {
            colds.append(
                .helper(
                    jump: jump, call: helperCall(flags), count: runLength, resume: code.position,
                    fill: fill))
        }
        pending.removeAll(keepingCapacity: true)
    }

    // MARK: Exits

    /// Goes to the following block, if it is known. Inside a trace it comes next.
    mutating func exit(_ edge: BlockExit.Edge) {
        if edgeInside == nil { noteExit(code.jump(), edge, countBehind: 0) }
    }

    mutating func exit(if condition: UInt8) {
        restoreFlags()
        switch edgeInside {
        case .taken?: noteExit(code.jump(if: condition ^ 1), .next, countBehind: countBehind)
        case .next?: noteExit(code.jump(if: condition), .taken, countBehind: countBehind)
        default:
            noteExit(code.jump(if: condition), .taken, countBehind: 0)
            noteExit(code.jump(), .next, countBehind: 0)
        }
    }

    private mutating func noteExit(_ place: Int, _ edge: BlockExit.Edge, countBehind: Int) {
        if exitCount == exits.count {
            let owner = trace.blocks[0].address
            exits.append(HostExit(owner: owner, block: block.address, edge: edge))
        }
        colds.append(
            .exit(jump: place, number: exitCount, flags: flags, countBehind: countBehind))
        exitCount += 1
    }

    /// The jump that leads to the following block once that is known.
    private mutating func finishExit(
        _ jump: Int, _ number: Int, _ flags: FlagPlace, countBehind: Int
    ) {
        var place = jump
        if countBehind != 0 {
            code.land(jump)
            changeBudget(countBehind)
            place = code.jump()
        }
        if isPlain {
            exits[number].plainJump = HostJump(place: place, exit: code.position, flags)
        } else {
            exits[number].jump = HostJump(place: place, exit: code.position, flags)
        }
        code.land(place)
        let address = unsafe UInt(bitPattern: arena.writable(exitPlaces[number]))
        code.set(HostRegister.first, to: LeaveReason.exit.word(address))
        code.jump(to: flags == .frame ? stubs.leaveWithFlagsInFrame : stubs.leave)
    }

    // MARK: The end

    mutating func finish() {
        if exitPlaces.count < exits.count { reserveExits() }
        for cold in colds {
            mark(coldOf: cold.jump)
            switch cold {
            case .helper(let jump, let call, let count, let resume, let fill):
                code.land(jump)
                if let fill {
                    self.fill(fill, call.operation)
                    if count > 1 {
                        separateRun(
                            call.operation, count, mode: UInt8(fill.access.mode), resume: resume)
                    }
                }
                interpret(call, count)
                code.jump(to: resume)
            case .exit(let jump, let number, let flags, let countBehind):
                finishExit(jump, number, flags, countBehind: countBehind)
            case .target(let jump, let call, let stack):
                code.land(jump)
                leaveForTarget(call, stack)
            case .start(let jump, let isCounted):
                code.land(jump)
                if isCounted {
                    code.memory(0x83, size: 8, reg: 0, HostFrame.slot(HostFrame.budget))
                    code.byte(UInt8(trace.count))
                }
                leave(.start)
            case .vectors(let jump, let stub, let resume):
                code.land(jump)
                code.call(stub)
                code.registers(0x85, size: 4, reg: 9, rm: 9)  // test r9d, r9d
                code.jump(if: 4, to: resume)
                leave(.unmasked)
            }
        }
    }

    /// Room for what is known about the exits, once for both codes.
    private mutating func reserveExits() {
        mark(CodeMark.data)
        code.align(to: 8)
        for _ in exits {
            exitPlaces.append(code.position)
            for _ in 0..<HostExit.stride { code.byte(0) }
        }
        code.align(to: 8)
    }

    private mutating func interpret(_ call: HelperCall, _ count: Int) {
        callHelper(call)
        var next = call
        for _ in 1..<count {
            next.packed += 1 << 48
            next.flags = call.flags == nil ? nil : .frame
            callHelper(next)
        }
    }

    /// Leaves the first block, with the flags in the frame.
    mutating func leave(_ reason: LeaveReason) {
        code.set(HostRegister.first, to: reason.word(trace.blocks[0].address))
        code.jump(to: stubs.leaveWithFlagsInFrame)
    }
}
