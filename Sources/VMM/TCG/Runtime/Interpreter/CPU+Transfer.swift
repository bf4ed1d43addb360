// The instructions behind `OperationCode.transfer`: branches outside the fast set, and everything
// after which the mode, the mappings or the interrupts must be looked at again. RIP is the
// instruction's own on entry; every instruction sets it when nothing can fault any more.

extension CPU {
    /// Executes the instruction. `false`: it is not complete (INS and OUTS between elements).
    @inline(never)
    func transfer(_ op: OperationPointer, nextRIP: UInt64) throws(Fault) -> Bool {
        let operation = TransferOperation(rawValue: op.detail) ?? .hlt
        switch operation {
        case .ins, .outs:
            guard try portString(op, isInput: operation == .ins) else { return false }
            rip = nextRIP
        case .jumpNear, .callNear, .ret, .jrcxz, .loop, .loope, .loopne,
            .branchBeyondLimit:
            try nearBranch(op, operation, nextRIP: nextRIP)
        case .jumpFar, .callFar, .jumpFarMemory, .callFarMemory, .retFar, .int, .int3, .int1,
            .into, .iret, .syscall, .sysret, .sysenter, .sysexit:
            try farTransfer(op, operation, nextRIP: nextRIP)
        default:
            try changeSystemState(op, operation)
            rip = nextRIP
        }
        return true
    }

    // MARK: Near branches

    private func nearBranch(
        _ op: OperationPointer, _ operation: TransferOperation, nextRIP: UInt64
    ) throws(Fault) {
        switch operation {
        case .jumpNear:
            rip = try checkedTarget(try branchTarget(op))
        case .callNear:
            let target = try branchTarget(op)
            // A stack fault comes before the target's.
            try probeStackWrite(self[Register.rsp] &- UInt64(op.size), size: op.size)
            rip = try checkedTarget(target)
            try pushValue(nextRIP, size: op.size)
        case .ret:
            let target = try loadStack(self[Register.rsp], size: op.size)
            rip = try checkedTarget(target)
            setStackPointer(
                self[Register.rsp] &+ UInt64(op.size) &+ UInt64(bitPattern: op.immediate))
        case .branchBeyondLimit:
            if holds(op.source) { throw .generalProtection(0) }
            rip = nextRIP
        default:
            rip = try countingBranch(op, operation) ? UInt64(bitPattern: op.immediate) : nextRIP
        }
    }

    /// An immediate is a direct target.
    private func branchTarget(_ op: OperationPointer) throws(Fault) -> UInt64 {
        if op.form.contains(.immediateSource) { return UInt64(bitPattern: op.immediate) }
        if op.form.contains(.memorySource) {
            let linear = try linearAddress(op, size: Int(op.size), isWrite: false)
            return try loadSized(linear, size: op.size)
        }
        switch op.size {
        case 2: return self[op.source] & 0xFFFF
        case 4: return self[op.source] & 0xFFFF_FFFF
        default: return self[op.source]
        }
    }

    private func checkedTarget(_ target: UInt64) throws(Fault) -> UInt64 {
        if !is64Bit && target > UInt64(segment(SegmentRegister.cs).limit) {
            throw .generalProtection(0)
        }
        return target
    }

    /// LOOP and JCXZ: whether they branch. The counter has the address size, in `displacement`.
    private func countingBranch(
        _ op: OperationPointer, _ operation: TransferOperation
    ) throws(Fault) -> Bool {
        let count = stringRegister(op, Register.rcx)
        if operation == .jrcxz {
            if count == 0 { _ = try checkedTarget(UInt64(bitPattern: op.immediate)) }
            return count == 0
        }
        let isTaken =
            count != 1
            && (operation == .loop || (operation == .loope ? zeroFlag : !zeroFlag))
        if isTaken { _ = try checkedTarget(UInt64(bitPattern: op.immediate)) }
        advanceString(op, Register.rcx, by: -1)
        return isTaken
    }

    // MARK: Far transfers

    private func farTransfer(
        _ op: OperationPointer, _ operation: TransferOperation, nextRIP: UInt64
    ) throws(Fault) {
        switch operation {
        case .jumpFar, .callFar:
            try farTransfer(
                op, isCall: operation == .callFar,
                selector: UInt16(truncatingIfNeeded: op.displacement),
                offset: UInt64(bitPattern: op.immediate), nextRIP: nextRIP)
        case .jumpFarMemory, .callFarMemory:
            let (offset, selector) = try farPointer(op)
            try farTransfer(
                op, isCall: operation == .callFarMemory, selector: selector, offset: offset,
                nextRIP: nextRIP)
        case .retFar:
            try farReturn(
                operandSize: op.size, popBytes: UInt16(truncatingIfNeeded: op.immediate))
        case .int:
            try softwareInterrupt(
                vector: UInt8(truncatingIfNeeded: op.immediate), nextRIP: nextRIP, kind: .int)
        case .int3: try softwareInterrupt(vector: 3, nextRIP: nextRIP, kind: .int3)
        case .int1: try softwareInterrupt(vector: 1, nextRIP: nextRIP, kind: .int1)
        case .into:
            if overflowFlag {
                try softwareInterrupt(vector: 4, nextRIP: nextRIP, kind: .into)
            } else {
                rip = nextRIP
            }
        case .iret: try interruptReturn(operandSize: op.size, nextRIP: nextRIP)
        case .syscall: try systemCall(nextRIP: nextRIP)
        case .sysret: try systemReturn(operandSize: op.size)
        case .sysenter: try sysenter(nextRIP: nextRIP)
        default: try sysexit(operandSize: op.size)
        }
    }

    private func farTransfer(
        _ op: OperationPointer, isCall: Bool, selector: UInt16, offset: UInt64, nextRIP: UInt64
    ) throws(Fault) {
        if isCall {
            try farCall(
                selector: selector, offset: offset, operandSize: op.size, nextRIP: nextRIP)
        } else {
            try farJump(
                selector: selector, offset: offset, operandSize: op.size, nextRIP: nextRIP)
        }
    }

    /// A far pointer in memory: the offset in the operand size, then the selector. As on AMD's
    /// processors, which we show, an offset has at most 32 bits; the operand size is still what
    /// CALL pushes (APM volume 3, "CALL (Far)").
    private func farPointer(_ op: OperationPointer) throws(Fault) -> (UInt64, UInt16) {
        let offset = effectiveOffset(op)
        let size = min(op.size, 4)
        let first = try linearAddress(op, offset: offset, size: Int(size), isWrite: false)
        let second = try linearAddress(
            op, offset: offset &+ UInt64(size), size: 2, isWrite: false)
        return (try loadSized(first, size: size), try load(second, as: UInt16.self))
    }

    // MARK: Segments, flags and modes

    private func changeSystemState(
        _ op: OperationPointer, _ operation: TransferOperation
    ) throws(Fault) {
        switch operation {
        case .movToSegment:
            try loadSegmentShadowing(op.destination, try sourceValue(op, UInt16.self))
        case .popSegment:
            let value = try loadStack(self[Register.rsp], size: op.size)
            let before = self[Register.rsp]
            // The stack pointer moves first: SS may change its width.
            setStackPointer(before &+ UInt64(op.size))
            do throws(Fault) {
                try loadSegmentShadowing(op.destination, UInt16(truncatingIfNeeded: value))
            } catch {
                self[Register.rsp] = before
                throw error
            }
        case .loadFarPointer:
            let (offset, selector) = try farPointer(op)
            try loadSegment(op.source, selector: selector)
            setRegister(op.destination, offset, size: op.size)
        case .popf:
            let value = try loadStack(self[Register.rsp], size: op.size)
            try popFlags(value, operandSize: op.size)
            setStackPointer(self[Register.rsp] &+ UInt64(op.size))
        case .sti: try sti()
        case .hlt: try halt()
        case .movToControl: try writeControlRegister(op.destination, controlOperand(op))
        case .movToDebug: try writeDebugRegister(op.destination, controlOperand(op))
        case .clts: try clearTaskSwitched()
        case .lgdt, .lidt: try loadTable(op, operation)
        case .lmsw, .lldt, .ltr, .invlpg, .invpcid: try useSupervisorOperand(op, operation)
        case .wrmsr: try writeMSR()
        case .xsetbv: try xsetbv()
        case .rdtsc: try readTimestamp(op)
        case .hypercall: try hypercall()
        case .cpuid: cpuid()
        case .cacheFlush: try requireSupervisor()
        default: try accessPort(op, operation)
        }
    }

    /// Instructions of supervisor mode, whose operand may be in memory: privilege is looked at first.
    private func useSupervisorOperand(
        _ op: OperationPointer, _ operation: TransferOperation
    ) throws(Fault) {
        try requireSupervisor()
        switch operation {
        case .lmsw: try loadMachineStatusWord(try sourceValue(op, UInt16.self))
        case .lldt: try loadLDT(selector: try sourceValue(op, UInt16.self))
        case .ltr: try loadTaskRegister(selector: try sourceValue(op, UInt16.self))
        case .invlpg: invalidatePage(try linearAddress(op, size: 1, isWrite: false))
        default:
            let descriptor = try linearAddress(op, size: 16, isWrite: false)
            try invpcid(
                type: is64Bit ? self[op.destination] : self[op.destination] & 0xFFFF_FFFF,
                descriptor: descriptor)
        }
    }

    /// A load of SS holds interrupts and debug traps off for one instruction.
    private func loadSegmentShadowing(_ number: UInt8, _ selector: UInt16) throws(Fault) {
        try loadSegment(number, selector: selector)
        if number == SegmentRegister.ss { fields.interruptShadow = 2 }
    }

    private func controlOperand(_ op: OperationPointer) -> UInt64 {
        op.size == 8 ? self[op.source] : self[op.source] & 0xFFFF_FFFF
    }

    /// LGDT and LIDT. With 16-bit operands 24 bits of the base count (SDM volume 2, "LGDT").
    private func loadTable(_ op: OperationPointer, _ operation: TransferOperation) throws(Fault) {
        try requireSupervisor()
        let offset = effectiveOffset(op)
        let baseSize: UInt8 = is64Bit ? 8 : 4
        let linear = try linearAddress(
            op, offset: offset, size: 2 + Int(baseSize), isWrite: false)
        let limit = try load(linear, as: UInt16.self)
        var base = try loadSized(linear &+ 2, size: baseSize)
        if op.size == 2 && !is64Bit { base &= 0xFF_FFFF }
        if is64Bit && !isCanonical(base) { throw .generalProtection(0) }
        let table = TableRegister(base: base, limit: limit)
        if operation == .lgdt {
            fields.gdtr = table
        } else {
            fields.idtr = table
        }
    }

    /// RDTSC, and RDTSCP where `immediate` is set.
    private func readTimestamp(_ op: OperationPointer) throws(Fault) {
        let time = try rdtsc()
        setRegister(Register.rax, UInt32(truncatingIfNeeded: time))
        setRegister(Register.rdx, UInt32(truncatingIfNeeded: time >> 32))
        if op.immediate != 0 {
            setRegister(Register.rcx, UInt32(truncatingIfNeeded: fields.tscAux))
        }
    }

    /// IN and OUT; the port is an immediate or DX.
    private func accessPort(
        _ op: OperationPointer, _ operation: TransferOperation
    ) throws(Fault) {
        let port =
            op.form.contains(.immediateSource)
            ? UInt16(truncatingIfNeeded: op.immediate) & 0xFF
            : register(Register.rdx, as: UInt16.self)
        if operation == .inPort {
            let value = try portIn(port, size: Int(op.size))
            setRegister(Register.rax, UInt64(value), size: op.size)
        } else {
            let value = register(Register.rax, as: UInt32.self)
            try portOut(port, size: Int(op.size), value)
        }
    }
}
