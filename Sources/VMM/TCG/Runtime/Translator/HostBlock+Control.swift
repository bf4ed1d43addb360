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

    /// Calls the guest address in R9. Nothing is written before its code is known.
    private mutating func callTarget(_ op: OperationPointer) {
        let target = HostFrame.slot(HostFrame.target)
        lookUp()
        code.store(target, HostRegister.second)
        pushReturn(op)
        moveStack(-8)
        code.memory(0xFF, size: 4, reg: 4, target)  // jmp
        resume()
    }

    /// Goes to the guest address in R9 if its code is known, and moves the stack pointer.
    private mutating func goTo(stack: Int32) {
        lookUp()
        if stack != 0 { moveStack(stack) }
        code.bytes(0x41, 0xFF, 0xE2)  // jmp r10
        resume()
    }

    /// Leaves the host address of the code for the guest address in R9 in R10. If it is not known,
    /// the interpreter executes the whole instruction, which has changed nothing so far.
    private mutating func lookUp() {
        let (first, second) = (HostRegister.first, HostRegister.second)
        held = nil
        saveFlags()
        code.move(second, first)
        code.registers(0xC1, size: 8, reg: 5, rm: second)  // shr r10, 12
        code.byte(12)
        code.registers(0x33, size: 8, reg: second, rm: first)  // xor r10, r9
        code.registers(0x81, size: 4, reg: 4, rm: second)  // and r10d, entries
        code.word(Int32(CodeCache.jumpEntries - 1))
        code.registers(0xC1, size: 4, reg: 4, rm: second)  // shl r10d, 5
        code.byte(5)
        code.memory(0x03, size: 8, reg: second, HostState.jumpCache)
        code.memory(0x3B, size: 8, reg: first, HostMemory(second, 0))
        orInterpret(code.jump(if: 5))
        code.load(first, HostFrame.slot(HostFrame.lookupKey))
        code.memory(0x3B, size: 8, reg: first, HostMemory(second, 8))
        orInterpret(code.jump(if: 5))
        code.load(second, HostMemory(second, 24))
        code.registers(0x85, size: 8, reg: second, rm: second)  // test r10, r10
        orInterpret(code.jump(if: 4))
    }
}
