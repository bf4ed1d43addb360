// SYSCALL, SYSRET (AMD volume 3) and SYSENTER, SYSEXIT (SDM volume 2).

/// Attributes of the flat segments that these instructions load without reading a descriptor.
private enum FlatSegment {
    static let code32: UInt32 = 0xC09B
    static let code64: UInt32 = 0xA09B
    static let data: UInt32 = 0xC093
}

extension CPU {
    private func setFlat(_ register: UInt8, _ selector: UInt16, _ attributes: UInt32, dpl: UInt8) {
        setSegment(
            register,
            Segment(
                selector: selector, attributes: attributes | UInt32(dpl) << 5, limit: UInt32.max,
                base: 0))
    }

    func systemCall(nextRIP: UInt64) throws(Fault) {
        guard fields.efer & EFER.sce != 0, !isRealMode, !isVM86 else { throw .invalidOpcode }
        let selector = UInt16(truncatingIfNeeded: fields.star >> 32)
        let wasLong = is64Bit
        self[1] = wasLong ? nextRIP : nextRIP & 0xFFFF_FFFF
        fields.cpl = 0
        setFlat(SegmentRegister.ss, (selector & ~3) &+ 8, FlatSegment.data, dpl: 0)
        if fields.isLongMode {
            self[11] = rflags & ~RFLAGS.rf
            setFlat(SegmentRegister.cs, selector & ~3, FlatSegment.code64, dpl: 0)
            rip = wasLong ? fields.lstar : fields.cstar
            let kept = rflags & ~fields.sfmask & ~RFLAGS.rf
            setArithmeticFlags(kept)
            fields.systemFlags = (kept & ~RFLAGS.arithmetic) | 2
        } else {
            setFlat(SegmentRegister.cs, selector & ~3, FlatSegment.code32, dpl: 0)
            rip = fields.star & 0xFFFF_FFFF
            fields.systemFlags &= ~(RFLAGS.interruptEnable | RFLAGS.rf | RFLAGS.vm)
        }
        updateMode()
        trapIfStepping()
    }

    /// SYSCALL and SYSRET trap if TF is set at their end, whatever it was before.
    private func trapIfStepping() {
        fields.stepArmed = false
        guard fields.systemFlags & RFLAGS.tf != 0 else { return }
        fields.pendingDebug |= DR6.bs
        requestService()
    }

    func systemReturn(operandSize: UInt8) throws(Fault) {
        guard fields.efer & EFER.sce != 0, !isRealMode, !isVM86 else { throw .invalidOpcode }
        try requireSupervisor()
        let selector = UInt16(truncatingIfNeeded: fields.star >> 48)
        let is64 = operandSize == 8 && is64Bit
        let flags = self[11]
        let wasLong = is64Bit
        fields.cpl = 3
        setFlat(SegmentRegister.ss, (selector &+ 8) | 3, FlatSegment.data, dpl: 3)
        if is64 {
            setFlat(SegmentRegister.cs, (selector &+ 16) | 3, FlatSegment.code64, dpl: 3)
            rip = self[1]
        } else {
            setFlat(SegmentRegister.cs, selector | 3, FlatSegment.code32, dpl: 3)
            rip = self[1] & 0xFFFF_FFFF
        }
        if wasLong {
            setArithmeticFlags(flags)
            let system = flags & RFLAGS.defined & ~(RFLAGS.arithmetic | RFLAGS.vm | RFLAGS.rf)
            fields.systemFlags = system | 2
        } else {
            fields.systemFlags |= RFLAGS.interruptEnable
        }
        updateMode()
        trapIfStepping()
        if fields.systemFlags & RFLAGS.interruptEnable != 0 && fields.interruptPending {
            requestService()
        }
    }

    func sysenter(nextRIP: UInt64) throws(Fault) {
        guard !isRealMode, fields.sysenterCS & 0xFFFC != 0 else { throw .generalProtection(0) }
        let selector = UInt16(truncatingIfNeeded: fields.sysenterCS) & ~3
        fields.systemFlags &= ~(RFLAGS.vm | RFLAGS.interruptEnable | RFLAGS.rf)
        let isLong = fields.isLongMode
        fields.stepArmed = false
        fields.cpl = 0
        setFlat(
            SegmentRegister.cs, selector, isLong ? FlatSegment.code64 : FlatSegment.code32, dpl: 0)
        setFlat(SegmentRegister.ss, selector &+ 8, FlatSegment.data, dpl: 0)
        self[4] = isLong ? fields.sysenterESP : fields.sysenterESP & 0xFFFF_FFFF
        rip = isLong ? fields.sysenterEIP : fields.sysenterEIP & 0xFFFF_FFFF
        updateMode()
    }

    func sysexit(operandSize: UInt8) throws(Fault) {
        guard !isRealMode, fields.sysenterCS & 0xFFFC != 0, cpl == 0, !isVM86 else {
            throw .generalProtection(0)
        }
        let selector = UInt16(truncatingIfNeeded: fields.sysenterCS) & ~3
        let is64 = operandSize == 8 && is64Bit
        if is64 && (!isCanonical(self[1]) || !isCanonical(self[2])) {
            throw .generalProtection(0)
        }
        fields.cpl = 3
        if is64 {
            setFlat(SegmentRegister.cs, (selector &+ 32) | 3, FlatSegment.code64, dpl: 3)
            setFlat(SegmentRegister.ss, (selector &+ 40) | 3, FlatSegment.data, dpl: 3)
            self[4] = self[1]
            rip = self[2]
        } else {
            setFlat(SegmentRegister.cs, (selector &+ 16) | 3, FlatSegment.code32, dpl: 3)
            setFlat(SegmentRegister.ss, (selector &+ 24) | 3, FlatSegment.data, dpl: 3)
            self[4] = self[1] & 0xFFFF_FFFF
            rip = self[2] & 0xFFFF_FFFF
        }
        updateMode()
    }
}
