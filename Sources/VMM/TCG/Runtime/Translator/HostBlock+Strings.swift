// STOS and MOVS, with REP if they stay in one page of each operand, are the host's own. The interpreter
// has all others, one page after the other.

extension HostBlock {
    mutating func emitString(_ op: OperationPointer) -> Bool {
        let isCopy = op.detail == StringOperation.movs.rawValue
        // String instructions keep their address size in `displacement`.
        guard isCopy || op.detail == StringOperation.stos.rawValue,
            !op.form.contains(.repne), op.displacement == 8,
            !isCopy || op.segment < SegmentRegister.fs
        else { return false }
        saveFlags()
        code.memory(0xF6, size: 1, reg: 0, HostState.systemFlags.advanced(by: 1))  // test, DF
        code.byte(UInt8(RFLAGS.df >> 8))
        orInterpret(code.jump(if: 5))
        if op.form.contains(.rep) {
            emitRun(op, isCopy: isCopy)
        } else {
            emitElement(op, isCopy: isCopy)
        }
        resume()
        return true
    }

    /// Without REP.
    private mutating func emitElement(_ op: OperationPointer, isCopy: Bool) {
        let (second, size) = (HostRegister.second, op.size)
        var value = HostRegister.rax
        if isCopy {
            let kept = HostFrame.slot(HostFrame.target)
            reach(element(Register.rsi, op, isWrite: false))
            code.memory(size == 1 ? 0x8A : 0x8B, size: size, reg: second, operand)
            code.store(kept, second)
            reach(element(Register.rdi, op, isWrite: true))
            code.load(second, kept)
            value = second
        } else {
            reach(element(Register.rdi, op, isWrite: true))
        }
        code.memory(size == 1 ? 0x88 : 0x89, size: size, reg: value, operand)
        for register in isCopy ? [Register.rsi, Register.rdi] : [Register.rdi] {
            let host = HostRegister.of(register)
            code.lea(host, HostMemory(host, Int32(size)))
        }
    }

    /// Backwards, the interpreter executes the operation before the access is reached.
    private func element(_ register: UInt8, _ op: OperationPointer, isWrite: Bool) -> Access {
        Access(base: register, displacement: 0, size: op.size, isWrite: isWrite, isSure: false)
    }

    private mutating func emitRun(_ op: OperationPointer, isCopy: Bool) {
        let (rcx, rsi, rdi) = (Register.rcx, Register.rsi, Register.rdi)
        checkCount(size: op.size)
        if isCopy {
            reachRun(rsi, size: op.size, isWrite: false)
            code.store(HostFrame.slot(HostFrame.stringSource), HostRegister.first)
        }
        reachRun(rdi, size: op.size, isWrite: true)
        // The guest's registers wait where a helper would have put them.
        code.store(HostFrame.register(rcx), HostRegister.of(rcx))
        code.store(HostFrame.register(rdi), HostRegister.of(rdi))
        if isCopy {
            code.store(HostFrame.register(rsi), HostRegister.of(rsi))
            code.load(HostRegister.of(rsi), HostFrame.slot(HostFrame.stringSource))
        }
        code.move(HostRegister.of(rdi), HostRegister.first)
        code.byte(0xF3)  // rep
        if op.size == 2 { code.byte(0x66) }
        if op.size == 8 { code.byte(0x48) }
        code.byte((isCopy ? 0xA4 : 0xAA) | (op.size == 1 ? 0 : 1))
        // RCX is zero.
        code.load(HostRegister.second, HostFrame.register(rcx))
        advance(rdi, size: op.size)
        if isCopy { advance(rsi, size: op.size) }
    }

    private static func shift(_ size: UInt8) -> UInt8 { UInt8(size.trailingZeroBitCount) }

    /// Not none, and no more than there can be in a page.
    private mutating func checkCount(size: UInt8) {
        let second = HostRegister.second
        code.lea(second, HostMemory(HostRegister.of(Register.rcx), -1))
        code.registers(0x81, size: 8, reg: 7, rm: second)  // cmp r10, most - 1
        code.word(4096 >> Int32(Self.shift(size)) - 1)
        orInterpret(code.jump(if: 7))
    }

    /// Leaves the host address of the RCX elements at a register's address in R9, if they are in
    /// one page that can be reached.
    private mutating func reachRun(_ register: UInt8, size: UInt8, isWrite: Bool) {
        let first = HostRegister.first
        let count = HostRegister.of(Register.rcx)
        held = nil
        code.move(first, HostRegister.of(register), size: 4)
        code.registers(0x81, size: 4, reg: 4, rm: first)  // and r9d, 4095
        code.word(4095)
        code.lea(first, HostMemory(first, index: count, scale: Self.shift(size), 0))
        code.registers(0x81, size: 8, reg: 7, rm: first)  // cmp r9, 4096
        code.word(4096)
        orInterpret(code.jump(if: 7))
        code.move(first, HostRegister.of(register))
        lookIntoTLB(isWrite: isWrite)
        code.registers(0x81, size: 8, reg: 7, rm: first)  // cmp r9, 4095
        code.word(4095)
        orInterpret(code.jump(if: 7))
        addHost(HostRegister.second)
    }

    /// Puts a register back, behind the elements in R10.
    private mutating func advance(_ register: UInt8, size: UInt8) {
        let host = HostRegister.of(register)
        code.load(host, HostFrame.register(register))
        code.lea(
            host,
            HostMemory(host, index: HostRegister.second, scale: Self.shift(size), 0))
    }
}
