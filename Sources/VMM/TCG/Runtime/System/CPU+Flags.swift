// IF and the other flags that privilege protects (SDM volume 2, CLI, STI, POPF, PUSHF; volume 3,
// section 20.3 for the virtual interrupt flag).

extension CPU {
    /// CR4.VME or CR4.PVI lets code of low privilege handle VIF instead of IF.
    private var hasVirtualInterruptFlag: Bool {
        if isVM86 { return fields.cr4 & CR4.vme != 0 }
        return cpl == 3 && fields.cr4 & CR4.pvi != 0
    }

    /// Whether CLI and STI may change IF.
    private var mayChangeInterruptFlag: Bool { isRealMode || (isVM86 ? iopl == 3 : cpl <= iopl) }

    func cli() throws(Fault) {
        if mayChangeInterruptFlag {
            fields.systemFlags &= ~RFLAGS.interruptEnable
        } else if hasVirtualInterruptFlag {
            fields.systemFlags &= ~RFLAGS.vif
        } else {
            throw .generalProtection(0)
        }
    }

    func sti() throws(Fault) {
        if mayChangeInterruptFlag {
            if fields.systemFlags & RFLAGS.interruptEnable != 0 { return }
            fields.interruptShadow = 1
            fields.systemFlags |= RFLAGS.interruptEnable
            if fields.interruptPending { requestService() }
        } else if hasVirtualInterruptFlag && fields.systemFlags & RFLAGS.vip == 0 {
            fields.systemFlags |= RFLAGS.vif
        } else {
            throw .generalProtection(0)
        }
    }

    /// STI in the middle of a block. What waits is delivered behind the next instruction, and what
    /// comes later finds that out at the block's end.
    ///
    /// - Parameter isAlone: nobody knows whether the next instruction will be executed at once.
    /// - Returns: `false` if the block is to be left; RIP is behind the instruction.
    func enableInterrupts(
        _ op: OperationPointer, of block: Block, isAlone: Bool = false
    ) throws(Fault) -> Bool {
        let next = op.next
        try sti()
        if fields.interruptShadow == 0 { return true }
        let isFollowed = !isAlone && next.code != .fallThrough && next.code != .stop
        if isFollowed && !fields.interruptPending {
            fields.interruptShadow = 0
            return true
        }
        rip = block.nextRIP(op)
        uncount(block, from: next)
        return false
    }

    func stac() throws(Fault) {
        if cpl != 0 { throw .invalidOpcode }
        fields.systemFlags |= RFLAGS.ac
        updateAccessMode()
    }

    func clac() throws(Fault) {
        if cpl != 0 { throw .invalidOpcode }
        fields.systemFlags &= ~RFLAGS.ac
        updateAccessMode()
    }

    /// POPF of a value of `operandSize` bytes.
    func popFlags(_ value: UInt64, operandSize: UInt8) throws(Fault) {
        var changed = RFLAGS.defined & ~(RFLAGS.vm | RFLAGS.vif | RFLAGS.vip | RFLAGS.iopl)
        changed &= ~(RFLAGS.interruptEnable | 2)
        var value = value & ~RFLAGS.rf
        if isVM86 && iopl < 3 {
            guard operandSize == 2, fields.cr4 & CR4.vme != 0 else { throw .generalProtection(0) }
            let enables = value & RFLAGS.interruptEnable != 0
            let isPending = fields.systemFlags & RFLAGS.vip != 0
            if value & RFLAGS.tf != 0 || (enables && isPending) { throw .generalProtection(0) }
            // IF stands for VIF.
            fields.systemFlags &= ~RFLAGS.vif
            if enables { fields.systemFlags |= RFLAGS.vif }
        } else {
            if mayChangeInterruptFlag { changed |= RFLAGS.interruptEnable }
            if cpl == 0 { changed |= RFLAGS.iopl }
        }
        if operandSize == 2 {
            changed &= 0xFFFF
            value &= 0xFFFF
        }
        mergeFlags(value, changed: changed)
    }

    /// What PUSHF pushes.
    func flagsToPush(operandSize: UInt8) throws(Fault) -> UInt64 {
        let flags = rflags & ~(RFLAGS.vm | RFLAGS.rf)
        guard isVM86 && iopl < 3 else { return flags }
        guard operandSize == 2, fields.cr4 & CR4.vme != 0 else { throw .generalProtection(0) }
        var image = (flags | RFLAGS.iopl) & ~RFLAGS.interruptEnable
        if flags & RFLAGS.vif != 0 { image |= RFLAGS.interruptEnable }
        return image
    }
}
