// System registers, segments and system flags.
extension HostBlock {
    /// The selector of a segment register.
    mutating func emitSelector(_ op: OperationPointer) -> Bool {
        guard !op.form.contains(.memoryDestination) else { return false }
        let first = HostRegister.first
        if op.size == 2 {
            code.memory(0x0FB7, size: 4, reg: first, HostState.selector(op.source))
            held = nil
            if HostRegister.isInMemory(op.destination) {
                code.store(HostFrame.register(op.destination), first, size: 2)
            } else {
                code.move(HostRegister.of(op.destination), first, size: 2)
            }
            return true
        }
        code.memory(
            0x0FB7, size: 4, reg: target(op.destination, first), HostState.selector(op.source))
        store(op.destination, first)
        return true
    }

    /// Leaves the operation to the interpreter unless CPL is 0.
    private mutating func requireSupervisor() {
        saveFlags()
        code.memory(0x80, size: 1, reg: 7, HostState.cpl)  // cmp [cpl], 0
        code.byte(0)
        orInterpret(code.jump(if: 5))
    }

    /// MOV from CR0, CR2, CR3 or CR4.
    mutating func emitControlRegister(_ op: OperationPointer) -> Bool {
        guard block.key & ModeKey.user == 0, op.size == 8,
            let register = HostState.controlRegister(op.source)
        else { return false }
        requireSupervisor()
        code.load(target(op.destination, HostRegister.first), register)
        store(op.destination, HostRegister.first)
        resume()
        return true
    }

    mutating func emitSwapGS() -> Bool {
        guard block.key & ModeKey.user == 0 else { return false }
        let (first, second) = (HostRegister.first, HostRegister.second)
        requireSupervisor()
        code.load(first, HostState.gsBase)
        code.load(second, HostState.kernelGSBase)
        code.store(HostState.gsBase, second)
        code.store(HostState.addressBase(SegmentRegister.gs), second)
        code.store(HostState.kernelGSBase, first)
        resume()
        return true
    }

    // MARK: Flags

    /// PUSHFQ.
    mutating func emitPushFlags() -> Bool {
        let second = HostRegister.second
        saveFlags()
        accessStack(-8, isWrite: true)
        code.memory(0x0FB6, size: 4, reg: second, HostFrame.slot(HostFrame.flags + 1))
        code.memory(0x0B, size: 8, reg: second, HostState.systemFlags)  // or r10, [...]
        code.memory(0xF6, size: 1, reg: 0, HostFrame.slot(HostFrame.flags))  // test [...], 1
        code.byte(1)
        let hasNoOverflow = code.jump(if: 4)
        code.registers(0x0FBA, size: 4, reg: 5, rm: second)  // bts r10d, 11
        code.byte(11)
        code.land(hasNoOverflow)
        code.registers(0x0FBA, size: 8, reg: 6, rm: second)  // btr r10, 16: without RF
        code.byte(16)
        code.store(operand, second)
        moveStack(-8)
        resume()
        return true
    }

    /// STAC and CLAC: AC, and the soft TLB that it chooses.
    mutating func emitAccessFlag(isSet: Bool) -> Bool {
        guard block.key & ModeKey.user == 0 else { return false }
        let hasSMAP = block.key & ModeKey.smap != 0
        let mode = isSet || !hasSMAP ? TLBMode.supervisor : TLBMode.supervisorSMAP
        let key = block.key & ~ModeKey.accessMode | UInt32(mode) << ModeKey.accessModeShift
        requireSupervisor()
        let flag = Int32(RFLAGS.ac)
        code.memory(0x81, size: 4, reg: isSet ? 1 : 4, HostState.systemFlags)  // or, and
        code.word(isSet ? flag : ~flag)
        code.memory(0xC6, size: 1, reg: 0, HostState.tlbMode)
        code.byte(UInt8(mode))
        code.lea(HostRegister.second, HostFrame.tlb(mode: UInt8(mode)))
        code.store(HostState.tlb, HostRegister.second)
        code.memory(0xC7, size: 4, reg: 0, HostState.modeKey)
        code.word(Int32(bitPattern: key))
        accessMode = UInt8(mode)
        resume()
        return true
    }

    /// STI, if nothing waits for it and the next instruction is part of the block.
    mutating func emitEnableInterrupts(_ op: OperationPointer) -> Bool {
        guard index + 1 < operationCount, operation(index + 1).number == op.number + 1,
            operation(index + 1).code != .fallThrough
        else { return false }
        requireSupervisor()
        code.memory(0x80, size: 1, reg: 7, HostState.interruptPending)  // cmp [...], 0
        code.byte(0)
        orInterpret(code.jump(if: 5))
        code.memory(0x81, size: 4, reg: 1, HostState.systemFlags)  // or
        code.word(Int32(truncatingIfNeeded: RFLAGS.interruptEnable))
        resume()
        return true
    }

    mutating func emitSystemFlag(_ operation: GeneralOperation) -> Bool {
        if operation == .cli {
            // Only CPL 0 needs no look at IOPL.
            guard block.key & ModeKey.user == 0 else { return false }
        }
        if operation == .cli { requireSupervisor() } else { saveFlags() }
        code.memory(0x81, size: 4, reg: 4, HostState.systemFlags)  // and [...], all but it
        code.word(
            Int32(truncatingIfNeeded: ~(operation == .cli ? RFLAGS.interruptEnable : RFLAGS.df)))
        resume()
        return true
    }
}
