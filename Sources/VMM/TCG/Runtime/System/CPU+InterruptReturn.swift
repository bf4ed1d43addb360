// IRET in all its forms (SDM volume 2, IRET).

extension CPU {
    func interruptReturn(operandSize: UInt8, nextRIP: UInt64) throws(Fault) {
        if isRealMode {
            try returnReal(operandSize)
        } else if isVM86 {
            try returnFromVM86(operandSize)
        } else if fields.systemFlags & RFLAGS.nt != 0 {
            try returnToTask(nextRIP)
        } else {
            try returnProtected(operandSize)
        }
        fields.isNMIBlocked = false
        if fields.pendingNMIs > 0 { requestService() }
    }

    private func returnReal(_ operandSize: UInt8) throws(Fault) {
        let size = Int(operandSize)
        var stack = Stack(current: self)
        let target = try stack.pop(size: size)
        let selector = UInt16(truncatingIfNeeded: try stack.pop(size: size))
        let flags = try stack.pop(size: size)
        if target > UInt64(segment(SegmentRegister.cs).limit) { throw .generalProtection(0) }
        loadRealSegment(SegmentRegister.cs, selector: selector)
        rip = target
        stack.commit()
        let changed = operandSize == 2 ? 0xFFFF & ~0x8028 : RFLAGS.returnable
        mergeFlags(flags, changed: changed)
        updateMode()
    }

    private func returnFromVM86(_ operandSize: UInt8) throws(Fault) {
        let hasVME = fields.cr4 & CR4.vme != 0
        guard iopl == 3 || (hasVME && operandSize == 2) else { throw .generalProtection(0) }
        let size = Int(operandSize)
        var stack = Stack(current: self)
        let target = try stack.pop(size: size)
        let selector = UInt16(truncatingIfNeeded: try stack.pop(size: size))
        let flags = try stack.pop(size: size)
        if target > UInt64(segment(SegmentRegister.cs).limit) { throw .generalProtection(0) }
        var changed = RFLAGS.returnable & ~RFLAGS.iopl & ~RFLAGS.vif & ~RFLAGS.vip
        if operandSize == 2 { changed &= 0xFFFF }
        var new = flags
        if iopl != 3 {
            // Virtual-8086 mode extensions: IF stands for VIF.
            let isPending = fields.systemFlags & RFLAGS.vip != 0
            let enables = flags & RFLAGS.interruptEnable != 0
            if flags & RFLAGS.tf != 0 || (enables && isPending) { throw .generalProtection(0) }
            changed = (changed & ~RFLAGS.interruptEnable) | RFLAGS.vif
            new = enables ? flags | RFLAGS.vif : flags & ~RFLAGS.vif
        }
        loadRealSegment(SegmentRegister.cs, selector: selector)
        rip = target
        stack.commit()
        mergeFlags(new, changed: changed)
        updateMode()
    }

    private func returnToTask(_ nextRIP: UInt64) throws(Fault) {
        if fields.isLongMode { throw .generalProtection(0) }
        let task = segment(SegmentRegister.tr)
        let link = try loadSupervisor(task.base, as: UInt16.self)
        let code = link & ~3
        guard link & 4 == 0, link & ~3 != 0, let descriptor = try readDescriptor(link),
            !descriptor.isCodeOrData,
            descriptor.type == SystemType.busyTSS || descriptor.type == SystemType.busyTSS16
        else { throw .invalidTSS(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        try switchTask(link, descriptor, .interruptReturn, nextRIP: nextRIP)
    }

    private func returnProtected(_ operandSize: UInt8) throws(Fault) {
        let size = Int(operandSize)
        var stack = Stack(current: self)
        let target = try stack.pop(size: size)
        let selector = UInt16(truncatingIfNeeded: try stack.pop(size: size))
        let flags = try stack.pop(size: size)
        if flags & RFLAGS.vm != 0 && cpl == 0 && size == 4 && !fields.isLongMode {
            return try returnToVM86(&stack, target, selector, flags)
        }
        let descriptor = try returnDescriptor(selector)
        let oldCPL = cpl
        let oldIOPL = iopl
        let isOuter = UInt8(selector & 3) != oldCPL
        if isOuter || is64Bit {
            let pointer = try stack.pop(size: size)
            let newSS = UInt16(truncatingIfNeeded: try stack.pop(size: size))
            try returnOuter(selector, descriptor, target, newSS: newSS, pointer: pointer)
        } else {
            try enterCode(selector, descriptor, target, cpl: cpl)
            stack.commit()
        }
        var changed = RFLAGS.returnable & ~(RFLAGS.iopl | RFLAGS.interruptEnable)
        changed &= ~(RFLAGS.vif | RFLAGS.vip)
        if oldCPL <= oldIOPL { changed |= RFLAGS.interruptEnable }
        if oldCPL == 0 { changed |= RFLAGS.iopl | RFLAGS.vif | RFLAGS.vip }
        if size == 2 { changed &= 0xFFFF }
        mergeFlags(flags, changed: changed)
    }

    private func returnToVM86(
        _ stack: inout Stack, _ target: UInt64, _ code: UInt16, _ flags: UInt64
    ) throws(Fault) {
        let pointer = try stack.pop(size: 4)
        var selectors = InlineArray<6, UInt16>(repeating: 0)
        selectors[Int(SegmentRegister.cs)] = code
        for register in [
            SegmentRegister.ss, SegmentRegister.es, SegmentRegister.ds,
            SegmentRegister.fs, SegmentRegister.gs,
        ] {
            selectors[Int(register)] = UInt16(truncatingIfNeeded: try stack.pop(size: 4))
        }
        setFlags(flags & RFLAGS.defined)
        fields.cpl = 3
        for register in 0..<6 {
            loadRealSegment(UInt8(register), selector: selectors[register])
        }
        rip = target & 0xFFFF
        self[4] = pointer
        updateMode()
    }

    /// Takes the flags named by `changed` from `flags` and keeps the others.
    func mergeFlags(_ flags: UInt64, changed: UInt64) {
        setFlags((rflags & ~changed) | (flags & changed))
    }
}
