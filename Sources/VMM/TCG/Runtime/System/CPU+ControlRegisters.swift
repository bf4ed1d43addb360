// MOV to and from control registers (SDM volume 3, sections 2.5 and 4.10.4).

extension CPU {
    func readControlRegister(_ number: UInt8) throws(Fault) -> UInt64 {
        try requireSupervisor()
        switch number {
        case 0: return fields.cr0
        case 2: return fields.cr2
        case 3: return fields.cr3
        case 4: return fields.cr4
        case 8 where is64Bit: return UInt64(owner.apic.taskPriority >> 4)
        default: throw .invalidOpcode
        }
    }

    func writeControlRegister(_ number: UInt8, _ value: UInt64) throws(Fault) {
        try requireSupervisor()
        switch number {
        case 0: try writeCR0(value)
        case 2: fields.cr2 = value
        case 3: try writeCR3(value)
        case 4: try writeCR4(value)
        case 8 where is64Bit:
            if value & ~15 != 0 { throw .generalProtection(0) }
            owner.apic.setTaskPriority(UInt8(value) << 4)
            refreshInterrupts()
        default: throw .invalidOpcode
        }
    }

    /// LMSW: PE can be set but not cleared.
    func loadMachineStatusWord(_ value: UInt16) throws(Fault) {
        let old = fields.cr0
        try writeCR0((old & ~0xE) | (UInt64(value) & 0xF) | (old & CR0.pe))
    }

    /// CLTS.
    func clearTaskSwitched() throws(Fault) {
        try requireSupervisor()
        fields.cr0 &= ~CR0.ts
        updateMode()
    }

    /// #GP(0) where CR4.UMIP forbids SGDT, SIDT, SLDT, SMSW and STR.
    func checkUserModeInstructionPrevention() throws(Fault) {
        if cpl != 0 && fields.cr4 & CR4.umip != 0 { throw .generalProtection(0) }
    }

    /// #GP(0) unless CPL is 0.
    @inline(__always)
    func requireSupervisor() throws(Fault) {
        if cpl != 0 { throw .generalProtection(0) }
    }

    private func writeCR0(_ value: UInt64) throws(Fault) {
        if value >> 32 != 0 { throw .generalProtection(0) }
        let old = fields.cr0
        let new = (value & CR0.defined) | CR0.et
        let isPaging = new & CR0.pg != 0
        if isPaging && new & CR0.pe == 0 { throw .generalProtection(0) }
        if new & CR0.nw != 0 && new & CR0.cd == 0 { throw .generalProtection(0) }
        if isPaging && old & CR0.pg == 0 {
            if fields.efer & EFER.lme != 0 {
                let task = segment(SegmentRegister.tr)
                let isNarrow = task.isUsable && task.type & 8 == 0 && task.type & 1 != 0
                guard fields.cr4 & CR4.pae != 0, !segment(SegmentRegister.cs).isLong, !isNarrow
                else { throw .generalProtection(0) }
                fields.efer |= EFER.lma
            } else if fields.cr4 & CR4.pae != 0 {
                try loadPDPTEs(fields.cr3)
            }
        } else if !isPaging && old & CR0.pg != 0 {
            if is64Bit || fields.cr4 & CR4.pcide != 0 { throw .generalProtection(0) }
            fields.efer &= ~EFER.lma
        }
        fields.cr0 = new
        fields.isLongMode = fields.efer & EFER.lma != 0
        if (old ^ new) & (CR0.pg | CR0.wp) != 0 { flushTLB() }
        updateMode()
    }

    /// MOV to CR3. Bit 63 with PCIDs: keep what is cached for the new address space.
    private func writeCR3(_ value: UInt64) throws(Fault) {
        let hasPCID = fields.cr4 & CR4.pcide != 0
        let keeps = hasPCID && value >> 63 != 0
        let new = hasPCID ? value & ~(1 << 63) : value
        if fields.isLongMode {
            if new >> PageEntry.physicalBits != 0 { throw .generalProtection(0) }
        }
        if keeps && (fields.cr3 ^ new) & 0xFFF == 0 {
            fields.cr3 = new
            flushCodeLookups()
            return
        }
        try loadCR3(new, keeps: keeps)
    }

    /// Loads CR3 and, in PAE mode, the registers behind it; drops the old address space.
    ///
    /// - Parameter keeps: with PCIDs, what was known about the new one is still right.
    func loadCR3(_ value: UInt64, keeps: Bool = false) throws(Fault) {
        if usesPAE { try loadPDPTEs(value) }
        let old = fields.cr3
        fields.cr3 = value
        changeSpace(from: old, to: value, keeps: keeps)
    }

    private var usesPAE: Bool {
        fields.cr0 & CR0.pg != 0 && fields.cr4 & CR4.pae != 0 && !fields.isLongMode
    }

    private func loadPDPTEs(_ cr3: UInt64) throws(Fault) {
        let table = cr3 & 0xFFFF_FFE0
        var pointers = InlineArray<4, UInt64>(repeating: 0)
        for number in 0..<4 {
            let entry = loadEntry64(table + 8 * UInt64(number))
            // Bits 1-2, 5-8 and those above the address are reserved.
            if entry & PageEntry.present != 0 && entry & ~(PageEntry.address | 0xE19) != 0 {
                throw .generalProtection(0)
            }
            pointers[number] = entry
        }
        fields.pdptes = pointers
    }

    private func writeCR4(_ value: UInt64) throws(Fault) {
        let supported = CR4.supported | (owner.model.hasAVX ? CR4.osxsave : 0)
        if value & ~supported != 0 { throw .generalProtection(0) }
        let old = fields.cr4
        let changed = old ^ value
        if fields.isLongMode && value & CR4.pae == 0 { throw .generalProtection(0) }
        if changed & value & CR4.pcide != 0 {
            guard fields.isLongMode, fields.cr3 & 0xFFF == 0 else { throw .generalProtection(0) }
        }
        let isPaging = fields.cr0 & CR0.pg != 0
        if isPaging && value & CR4.pae != 0 && !fields.isLongMode { try loadPDPTEs(fields.cr3) }
        fields.cr4 = value
        let matters = CR4.pse | CR4.pae | CR4.pge | CR4.pcide | CR4.smep | CR4.smap
        if changed & matters != 0 { flushTLB() }
        updateMode()
    }

    func writeEFER(_ value: UInt64) throws(Fault) {
        if value & ~EFER.supported != 0 { throw .generalProtection(0) }
        let old = fields.efer
        // LME cannot change while paging is on; LMA cannot be written.
        if (old ^ value) & EFER.lme != 0 && fields.cr0 & CR0.pg != 0 {
            throw .generalProtection(0)
        }
        fields.efer = (value & ~EFER.lma) | (old & EFER.lma)
        if (old ^ value) & EFER.nxe != 0 { flushTLB() }
        updateMode()
    }

    /// INVLPG.
    func invalidatePage(_ linear: UInt64) {
        if is64Bit && !isCanonical(linear) { return }
        flushPage(linear)
    }

    /// INVPCID; `descriptor` is the operand's linear address (SDM volume 2).
    func invpcid(type: UInt64, descriptor: UInt64) throws(Fault) {
        let first = try slowLoad(descriptor, size: 8)
        let linear = try slowLoad(descriptor &+ 8, size: 8)
        let hasPCID = fields.cr4 & CR4.pcide != 0
        if type > 3 { throw .generalProtection(0) }
        if type <= 1 && (first & ~0xFFF != 0 || (!hasPCID && first != 0)) {
            throw .generalProtection(0)
        }
        // Nothing but code is known about any but the current address space.
        let isCurrent = !hasPCID || first == fields.cr3 & 0xFFF
        switch type {
        case 0:
            if !isCanonical(linear) { throw .generalProtection(0) }
            if isCurrent { flushPage(linear) } else { dropCodeSpace(first) }
        case 1:
            if isCurrent {
                changeSpace(from: fields.cr3, to: fields.cr3, keeps: false)
            } else {
                dropCodeSpace(first)
            }
        case 2: flushTranslations()
        default: flushNonGlobal()
        }
    }

    // MARK: Debug registers

    /// The register that a number stands for; 4 and 5 are 6 and 7 unless CR4.DE forbids them.
    private func debugRegister(_ number: UInt8) throws(Fault) -> Int {
        try requireSupervisor()
        var number = Int(number)
        if number > 7 { throw .invalidOpcode }
        if number == 4 || number == 5 {
            if fields.cr4 & CR4.de != 0 { throw .invalidOpcode }
            number += 2
        }
        if fields.debugRegisters[7] & DR7.gd != 0 {
            recordDebugException(DR6.bd)
            throw .debug
        }
        return number
    }

    func readDebugRegister(_ number: UInt8) throws(Fault) -> UInt64 {
        let number = try debugRegister(number)
        switch number {
        case 6: return fields.debugRegisters[6] | DR6.fixed
        case 7: return fields.debugRegisters[7] | DR7.fixed
        default: return fields.debugRegisters[number]
        }
    }

    func writeDebugRegister(_ number: UInt8, _ value: UInt64) throws(Fault) {
        let number = try debugRegister(number)
        if number >= 6 && value >> 32 != 0 { throw .generalProtection(0) }
        switch number {
        case 6: fields.debugRegisters[6] = value & 0xE00F
        case 7: fields.debugRegisters[7] = value & 0xFFFF_2BFF
        default: fields.debugRegisters[number] = value
        }
        if number == 6 { return }
        let watched = fields.hasDataBreakpoints
        fields.hasDataBreakpoints = (0..<4).contains {
            isBreakpointEnabled($0) && breakpointKind($0) & 1 != 0
        }
        if watched || fields.hasDataBreakpoints { flushTLB() }
        updateMode()
    }
}
