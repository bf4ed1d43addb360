// The stack, and branches.
extension HostBlock {
    /// Moves the guest's RSP. Does not touch flags.
    mutating func moveStack(_ distance: Int32) {
        code.lea(
            HostRegister.guestRSP, HostMemory(HostRegister.guestRSP, distance))
    }

    /// Makes `operand` the host address of a stack slot.
    mutating func accessStack(_ distance: Int32, isWrite: Bool, isSure: Bool = true) {
        reach(
            Access(
                base: Register.rsp, displacement: distance, size: 8, isWrite: isWrite,
                isSure: isSure))
    }

    mutating func emitStack(_ op: OperationPointer) -> Bool {
        let (first, second) = (HostRegister.first, HostRegister.second)
        switch op.code {
        case .pushR64:
            accessStack(-8, isWrite: true)
            let value = source(op.source, second)
            code.store(operand, value)
            moveStack(-8)
        case .pushI64:
            guard let value = Int32(exactly: op.immediate) else { return false }
            accessStack(-8, isWrite: true)
            code.memory(0xC7, size: 8, reg: 0, operand)
            code.word(value)
            moveStack(-8)
        case .pushM64:
            guard canAddress(op) else { return false }
            let value = HostFrame.slot(HostFrame.target)
            access(op, size: 8, isWrite: false)
            code.load(second, operand)
            code.store(value, second)
            accessStack(-8, isWrite: true, isSure: false)
            code.load(second, value)
            code.store(operand, second)
            moveStack(-8)
        case .popR64:
            accessStack(0, isWrite: false)
            code.load(second, operand)
            moveStack(8)
            if HostRegister.isInMemory(op.destination) {
                code.store(HostFrame.register(op.destination), second)
            } else {
                code.move(HostRegister.of(op.destination), second)
            }
        case .leave64:
            saveFlags()
            code.move(first, HostRegister.rbp)
            translate(.register(Register.rbp, displacement: 0), size: 8, isWrite: false)
            code.load(second, operand)
            code.lea(HostRegister.guestRSP, HostMemory(HostRegister.rbp, 8))
            code.move(HostRegister.rbp, second)
        default: return false
        }
        resume()
        return true
    }

    // MARK: Several at once

    /// How many PUSHes or POPs of registers follow each other, with a RET behind POPs. One look
    /// into the TLB serves them.
    func stackRun(_ end: Int) -> Int {
        let code = operation(index).code
        guard code == .pushR64 || code == .popR64 else { return 1 }
        var last = index
        while last < end, last - index < 15, operation(last).code == code {
            // RSP itself changes meanwhile.
            let register = code == .pushR64 ? operation(last).source : operation(last).destination
            if register == Register.rsp { break }
            last += 1
        }
        if code == .popR64, last > index, last < end, operation(last).code == .ret64 { last += 1 }
        return max(1, last - index)
    }

    mutating func emitStackRun() {
        let isPush = operation(index).code == .pushR64
        let (first, second) = (HostRegister.first, HostRegister.second)
        let size = Int32(runLength) * 8
        reach(
            Access(
                base: Register.rsp, displacement: isPush ? -size : 0, size: UInt8(size),
                isWrite: isPush))
        for number in 0..<runLength {
            let op = operation(index + number)
            let place = Int32(number) * 8
            if isPush {
                let value = source(op.source, second)
                code.store(operand.advanced(by: size - 8 - place), value)
            } else if op.code == .ret64 {
                code.load(first, operand.advanced(by: place))
                moveStack(place)
                returnAfterRun()
                return
            } else {
                code.load(target(op.destination, second), operand.advanced(by: place))
                store(op.destination, second)
            }
        }
        moveStack(isPush ? -size : size)
        resume()
    }

    /// The same where the stack slots are in two pages: one look for each. If one fails, the
    /// interpreter executes all of the run once more behind this, which changes nothing.
    ///
    /// - Parameter resume: where the code goes on with RSP moved, for RET with the address in R9.
    mutating func separateRun(_ start: OperationPointer, _ count: Int, mode: UInt8, resume: Int) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        let isPush = start.code == .pushR64
        let before = accessMode
        accessMode = mode
        var misses: [Int] = []
        for number in 0..<count {
            // SAFETY: a run is inside a block.
            let op = unsafe OperationPointer(start.pointer + number)
            let distance = isPush ? -8 * Int32(number + 1) : 8 * Int32(number)
            code.lea(first, HostMemory(HostRegister.guestRSP, distance))
            lookIntoTLB(isWrite: isPush)
            code.registers(0x81, size: 8, reg: 7, rm: first)  // cmp r9, 4096 - 8
            code.word(4096 - 8)
            misses.append(code.jump(if: 7))
            addHost(second)
            if isPush {
                code.store(operand, source(op.source, second))
            } else if op.code == .ret64 {
                code.load(first, operand)
            } else {
                code.load(target(op.destination, second), operand)
                store(op.destination, second)
            }
        }
        let hasReturn = unsafe OperationPointer(start.pointer + (count - 1)).code == .ret64
        moveStack(8 * Int32(isPush ? -count : hasReturn ? count - 1 : count))
        code.jump(to: resume)
        for miss in misses { code.land(miss) }
        accessMode = before
    }

    /// RET at the end of a run, which is complete but for it. The address is in R9.
    private mutating func returnAfterRun() {
        let (start, count) = (index, runLength)
        // From the look into the TLB the interpreter has all of the run.
        resume()
        (index, runLength) = (start + count - 1, 1)
        goTo(stack: 8)
        (index, runLength) = (start, count)
    }

    mutating func emitBranch(_ op: OperationPointer) -> Bool {
        let first = HostRegister.first
        switch op.code {
        case .jump: exit(.taken)
        case .call64:
            pushReturn(op)
            moveStack(-8)
            exit(.taken)
            resume()
        case .callR64:
            loadTarget(op)
            callTarget(op)
        case .callM64:
            guard canAddress(op) else { return false }
            access(op, size: 8, isWrite: false)
            code.load(first, operand)
            callTarget(op)
        case .jumpR64:
            loadTarget(op)
            goTo(stack: 0)
        case .jumpM64:
            guard canAddress(op) else { return false }
            access(op, size: 8, isWrite: false)
            code.load(first, operand)
            goTo(stack: 0)
        case .ret64, .retImmediate64:
            let more = op.code == .ret64 ? 0 : Int32(truncatingIfNeeded: op.immediate)
            accessStack(0, isWrite: false)
            code.load(first, operand)
            goTo(stack: 8 + more)
        default: return false
        }
        return true
    }

    /// Writes the return address below the stack.
    private mutating func pushReturn(_ op: OperationPointer) {
        accessStack(-8, isWrite: true)
        setMoving(HostRegister.second, to: block.nextRIP(op))
        code.store(operand, HostRegister.second)
    }

    /// Leaves the target that is in a register in R9.
    private mutating func loadTarget(_ op: OperationPointer) {
        saveFlags()
        let target = source(op.source, HostRegister.first)
        if target != HostRegister.first { code.move(HostRegister.first, target) }
    }

    /// Calls the guest address in R9. Nothing is written before its code is known: if it is not,
    /// the interpreter executes the whole instruction.
    private mutating func callTarget(_ op: OperationPointer) {
        let target = HostFrame.slot(HostFrame.target)
        orInterpret(lookUp())
        code.load(HostRegister.second, targetEntry(8))
        code.store(target, HostRegister.second)
        pushReturn(op)
        moveStack(-8)
        code.memory(0xFF, size: 4, reg: 4, target)  // jmp
        resume()
    }

    /// Goes to the guest address in R9, and moves the stack pointer.
    private mutating func goTo(stack: Int32) {
        let miss = lookUp()
        colds.append(.target(jump: miss, call: helperCall(.frame), stack: stack))
        if stack != 0 { moveStack(stack) }
        code.memory(0xFF, size: 4, reg: 4, targetEntry(8))  // jmp
        resume()
    }

    /// What follows `goTo` where the address has no code.
    mutating func leaveForTarget(_ call: HelperCall, _ stack: Int32) {
        let (first, second) = (HostRegister.first, HostRegister.second)
        code.move(second, first)
        for digit: UInt8 in [4, 7] {  // shl, sar
            code.registers(0xC1, size: 8, reg: digit, rm: second)
            code.byte(16)
        }
        code.registers(0x3B, size: 8, reg: second, rm: first)
        let isNone = code.jump(if: 5)
        if stack != 0 { moveStack(stack) }
        code.store(HostFrame.slot(HostFrame.target), first)
        leave(.target)
        code.land(isNone)
        callHelper(call)
    }

    private func targetEntry(_ field: Int32) -> HostMemory {
        HostFrame.target(mode: accessMode, entry: HostRegister.second, field)
    }

    /// Leaves the offset of the target table's entry for the guest address in R9 in R10.
    /// - Returns: the jump that is taken if there is no code for it.
    private mutating func lookUp() -> Int {
        let (first, second) = (HostRegister.first, HostRegister.second)
        held = nil
        saveFlags()
        let mask = TargetTable.mask(mode: accessMode)
        if mask == 0xFFFF {
            code.registers(0x0FB7, size: 4, reg: second, rm: first)  // movzx r10d, r9w
        } else {
            code.move(second, first, size: 4)
            code.registers(0x81, size: 4, reg: 4, rm: second)  // and r10d, mask
            code.word(Int32(mask))
        }
        code.registers(0xC1, size: 4, reg: 4, rm: second)  // shl r10d, 4
        code.byte(4)
        code.memory(0x3B, size: 8, reg: first, targetEntry(0))
        return code.jump(if: 5)
    }
}
