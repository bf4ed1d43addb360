// Loads of segment registers (SDM volume 3, sections 3.4, 5.6 and 5.7).

extension CPU {
    /// MOV to, POP, LDS and so on: any segment register but CS.
    func loadSegment(_ register: UInt8, selector: UInt16) throws(Fault) {
        if !isProtectedMode {
            loadRealSegment(register, selector: selector)
        } else if register == SegmentRegister.ss {
            try loadStackSegment(selector)
        } else {
            let segment = try dataSegment(selector)
            setSegment(register, segment)
        }
        updateMode()
    }

    /// Real mode keeps limit and rights, so that "big real mode" works; VM86 has fixed ones.
    func loadRealSegment(_ register: UInt8, selector: UInt16) {
        var segment = segment(register)
        segment.selector = selector
        segment.base = UInt64(selector) << 4
        if isVM86 {
            segment.limit = 0xFFFF
            segment.attributes = 0xF3
        } else if register != SegmentRegister.cs {
            segment.attributes = (segment.attributes & 0xC000) | 0x93
        } else {
            segment.attributes &= ~Segment.unusable
        }
        setSegment(register, segment)
    }

    private func dataSegment(_ selector: UInt16) throws(Fault) -> Segment {
        if selector & ~3 == 0 { return Segment(selector: selector, attributes: Segment.unusable) }
        let code = selector & ~3
        guard var descriptor = try readDescriptor(selector) else { throw .generalProtection(code) }
        let isReadable =
            descriptor.isData || (descriptor.isCode && descriptor.isReadableOrWritable)
        guard isReadable else { throw .generalProtection(code) }
        if !(descriptor.isCode && descriptor.isConforming) {
            let rpl = UInt8(selector & 3)
            if rpl > descriptor.dpl || cpl > descriptor.dpl { throw .generalProtection(code) }
        }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        descriptor = try markAccessed(selector, descriptor)
        return descriptor.segment(selector)
    }

    private func loadStackSegment(_ selector: UInt16) throws(Fault) {
        if selector & ~3 == 0 {
            guard is64Bit, cpl != 3, UInt8(selector) == cpl else { throw .generalProtection(0) }
            setSegment(SegmentRegister.ss, nullStack(cpl))
        } else {
            let segment = try stackSegment(selector, cpl: cpl) { .generalProtection($0) }
            setSegment(SegmentRegister.ss, segment)
        }
    }

    /// The null stack segment of 64-bit code.
    func nullStack(_ cpl: UInt8) -> Segment {
        Segment(
            selector: UInt16(cpl),
            attributes: Segment.unusable | 0x4000 | 0x13 | UInt32(cpl) << 5,
            limit: UInt32.max, base: 0)
    }

    /// A (not null) stack segment for privilege `cpl`. `fault` makes the fault for a descriptor
    /// that will not do: #GP for a load, #TS where the selector comes from a TSS.
    func stackSegment(
        _ selector: UInt16, cpl: UInt8, ext: UInt16 = 0, _ fault: (UInt16) -> Fault
    ) throws(Fault) -> Segment {
        let code = (selector & ~3) | ext
        guard let descriptor = try readDescriptor(selector) else { throw fault(code) }
        guard UInt8(selector & 3) == cpl, descriptor.isWritableData, descriptor.dpl == cpl
        else { throw fault(code) }
        guard descriptor.isPresent else { throw .stackFault(code) }
        return try markAccessed(selector, descriptor).segment(selector)
    }

    func loadLDT(selector: UInt16) throws(Fault) {
        if selector & ~3 == 0 {
            setSegment(
                SegmentRegister.ldtr,
                Segment(selector: selector, attributes: Segment.unusable))
            return
        }
        let code = selector & ~3
        guard selector & 4 == 0, let descriptor = try readDescriptor(selector),
            !descriptor.isCodeOrData, descriptor.type == SystemType.ldt
        else { throw .generalProtection(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        let segment = try systemSegment(selector, descriptor)
        setSegment(SegmentRegister.ldtr, segment)
    }

    func loadTaskRegister(selector: UInt16) throws(Fault) {
        if selector & ~3 == 0 { throw .generalProtection(0) }
        let code = selector & ~3
        guard selector & 4 == 0, let descriptor = try readDescriptor(selector),
            !descriptor.isCodeOrData,
            descriptor.type == SystemType.tss
                || (descriptor.type == SystemType.tss16 && !fields.isLongMode)
        else { throw .generalProtection(code) }
        guard descriptor.isPresent else { throw .segmentNotPresent(code) }
        var segment = try systemSegment(selector, descriptor)
        try setBusy(selector, true)
        segment.attributes |= 2
        setSegment(SegmentRegister.tr, segment)
    }

    /// An LDT's or TSS's register contents, with the 64-bit base in long mode.
    private func systemSegment(
        _ selector: UInt16, _ descriptor: Descriptor
    ) throws(Fault) -> Segment {
        var segment = descriptor.segment(selector)
        if fields.isLongMode {
            let upper = try readUpperHalf(selector)
            segment.base |= upper << 32
            if !isCanonical(segment.base) { throw .generalProtection(selector & ~3) }
        }
        return segment
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    func setBusy(_ selector: UInt16, _ isBusy: Bool) throws(Fault) {
        guard let address = descriptorAddress(selector) else { return }
        let byte = try loadSupervisor(address &+ 5, as: UInt8.self)
        try storeSupervisor(address &+ 5, isBusy ? byte | 2 : byte & ~2)
    }

    /// After a return to an outer level: data segments that the new level may not use become null
    /// (SDM volume 2, RET). Unlike a load of a null selector this leaves the base, which counts for
    /// FS and GS in 64-bit code.
    func dropPrivilegedSegments() {
        for register in [
            SegmentRegister.es, SegmentRegister.ds, SegmentRegister.fs, SegmentRegister.gs,
        ] {
            let segment = segment(register)
            let isChecked = segment.type & 8 == 0 || segment.type & 4 == 0
            if segment.isUsable && isChecked && segment.dpl < cpl {
                setSegment(register, Segment(attributes: Segment.unusable, base: segment.base))
            }
        }
    }

    // MARK: LAR, LSL, VERR, VERW

    /// The descriptor for LAR and its like, if the privilege rules let it be seen.
    private func visibleDescriptor(_ selector: UInt16) throws(Fault) -> Descriptor? {
        guard isProtectedMode else { throw .invalidOpcode }
        guard selector & ~3 != 0, let descriptor = try readDescriptor(selector) else { return nil }
        if descriptor.isCode && descriptor.isConforming { return descriptor }
        if descriptor.dpl < cpl || descriptor.dpl < UInt8(selector & 3) { return nil }
        return descriptor
    }

    /// The access rights that LAR loads; `nil` clears ZF.
    func lar(_ selector: UInt16) throws(Fault) -> UInt32? {
        guard let descriptor = try visibleDescriptor(selector) else { return nil }
        if !descriptor.isCodeOrData {
            let legacy: [UInt32] = [1, 2, 3, 4, 5, 9, 11, 12]
            let long: [UInt32] = [2, 9, 11, 12]
            let valid = fields.isLongMode ? long : legacy
            guard valid.contains(descriptor.type) else { return nil }
        }
        return UInt32(truncatingIfNeeded: descriptor.raw >> 32) & 0x00FF_FF00
    }

    /// The limit that LSL loads; `nil` clears ZF.
    func lsl(_ selector: UInt16) throws(Fault) -> UInt32? {
        guard let descriptor = try visibleDescriptor(selector) else { return nil }
        if !descriptor.isCodeOrData {
            let valid: [UInt32] = fields.isLongMode ? [2, 9, 11] : [1, 2, 3, 9, 11]
            guard valid.contains(descriptor.type) else { return nil }
        }
        return descriptor.limit
    }

    func verr(_ selector: UInt16) throws(Fault) -> Bool {
        guard let descriptor = try visibleDescriptor(selector) else { return false }
        return descriptor.isData || (descriptor.isCode && descriptor.isReadableOrWritable)
    }

    func verw(_ selector: UInt16) throws(Fault) -> Bool {
        guard let descriptor = try visibleDescriptor(selector) else { return false }
        return descriptor.isWritableData
    }

    // MARK: Bases

    /// WRFSBASE, WRGSBASE and the MSRs.
    func setSegmentBase(_ register: UInt8, _ base: UInt64) throws(Fault) {
        if !isCanonical(base) { throw .generalProtection(0) }
        fields.segments[Int(register & 7)].base = base
        if is64Bit || !fields.isLongMode { fields.addressBase[Int(register & 7)] = base }
    }

    func swapGS() throws(Fault) {
        guard is64Bit else { throw .invalidOpcode }
        try requireSupervisor()
        let register = Int(SegmentRegister.gs)
        let base = fields.segments[register].base
        fields.segments[register].base = fields.kernelGSBase
        fields.addressBase[register] = fields.kernelGSBase
        fields.kernelGSBase = base
    }
}
