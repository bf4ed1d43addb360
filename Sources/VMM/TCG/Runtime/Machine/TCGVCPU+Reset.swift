internal import Accelerator

// The states in which a CPU starts (SDM volume 3, section 10.1.1).

extension TCGVCPU {
    /// A hardware reset. All but the first CPU then wait for a start-up IPI.
    func reset() {
        resetRegisters()
        apic.reset(isReset: true)
        msrs = MSRStore()
        cpu.fields.efer = 0
        cpu.fields.tscAdjust = 0
        cpu.fields.tscAux = 0
        cpu.fields.kernelGSBase = 0
        cpu.fields.star = 0
        cpu.fields.lstar = 0
        cpu.fields.cstar = 0
        cpu.fields.sfmask = 0
        cpu.fields.sysenterCS = 0
        cpu.fields.sysenterESP = 0
        cpu.fields.sysenterEIP = 0
        cpu.fields.pat = 0x0007_0406_0007_0406
        cpu.resetFXImage()
        cpu.fields.hasUpperHalves = 0
        cpu.fields.xcr0 = ExtendedStateLayout.x87
        isWaitingForStartUp = index != 0
        finishReset()
    }

    /// INIT: caches, x87, SSE and AVX state, XCR0, MTRRs and most MSRs survive.
    func initialise() {
        resetRegisters()
        cpu.fields.efer = 0
        apic.reset(isReset: false)
        isWaitingForStartUp = index != 0
        finishReset()
    }

    /// A start-up IPI: real mode at vector * 4096.
    func startUp(_ vector: UInt8) {
        guard isWaitingForStartUp else { return }
        isWaitingForStartUp = false
        var code = cpu.segment(SegmentRegister.cs)
        code.selector = UInt16(vector) << 8
        code.base = UInt64(vector) << 12
        cpu.setSegment(SegmentRegister.cs, code)
        cpu.rip = 0
        cpu.updateMode()
    }

    private func finishReset() {
        cpu.updateAPICPage()
        cpu.flushTLB()
        cpu.invalidateAllCode()
        cpu.updateMode()
        updateBudget()
    }

    private func resetRegisters() {
        let cpu = cpu
        for number in 0..<16 { cpu[UInt8(number)] = 0 }
        cpu[2] = UInt64(CPUIDTable.signature)
        cpu.rip = 0xFFF0
        cpu.setArithmeticFlags(0)
        cpu.fields.systemFlags = 2
        cpu.fields.cr0 = CR0.cd | CR0.nw | CR0.et
        cpu.fields.cr2 = 0
        cpu.fields.cr3 = 0
        cpu.fields.cr4 = 0
        cpu.fields.isLongMode = false
        cpu.fields.cpl = 0
        cpu.fields.gdtr = TableRegister(base: 0, limit: 0xFFFF)
        cpu.fields.idtr = TableRegister(base: 0, limit: 0xFFFF)
        for number in 0..<6 {
            cpu.setSegment(UInt8(number), Segment(attributes: 0x93, limit: 0xFFFF))
        }
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(selector: 0xF000, attributes: 0x9B, limit: 0xFFFF, base: 0xFFFF_0000))
        cpu.setSegment(SegmentRegister.ldtr, Segment(attributes: 0x82, limit: 0xFFFF))
        cpu.setSegment(SegmentRegister.tr, Segment(attributes: 0x8B, limit: 0xFFFF))
        for number in 0..<8 { cpu.fields.debugRegisters[number] = 0 }
        cpu.fields.hasDataBreakpoints = false
        cpu.fields.pendingDebug = 0
        cpu.fields.stepArmed = false
        cpu.fields.interruptShadow = 0
        cpu.fields.interruptPending = false
        cpu.fields.isNMIBlocked = false
        cpu.fields.pendingNMIs = 0
        cpu.fields.isHalted = false
        cpu.fields.isShutDown = false
        cpu.fields.pendingEffect = 0
    }

    // MARK: Boot protocols

    func enter(_ state: InitialCPUState) {
        reset()
        isWaitingForStartUp = false
        switch state {
        case .reset:
            isWaitingForStartUp = index != 0
            // Nobody sets up the memory types of the CPUs that a kernel starts.
            if isWaitingForStartUp { msrs.setWriteBack() }
            return
        case .linux64(let entry, let parameters, let pageTables, let gdt, let stack):
            enterFlat(entry: entry, gdt: gdt, codeAttributes: 0xA09B)
            cpu[6] = parameters
            cpu[4] = stack
            cpu.fields.cr4 = CR4.pae | CR4.pge
            cpu.fields.cr3 = pageTables
            cpu.fields.efer = EFER.lme | EFER.lma | EFER.nxe | EFER.sce
            cpu.fields.cr0 = CR0.pe | CR0.pg | CR0.et | CR0.ne | CR0.wp
            cpu.fields.isLongMode = true
        case .pvh(let entry, let startInfo, let gdt):
            enterFlat(entry: UInt64(entry), gdt: gdt, codeAttributes: 0xC09B)
            cpu[3] = UInt64(startInfo)
            cpu.fields.cr0 = CR0.pe | CR0.et
        case .multiboot(let entry, let information, let gdt):
            enterFlat(entry: UInt64(entry), gdt: gdt, codeAttributes: 0xC09B)
            cpu[0] = UInt64(InitialCPUState.multibootMagic)
            cpu[3] = UInt64(information)
            cpu.fields.cr0 = CR0.pe | CR0.et
        }
        // There is no firmware to set the memory types up.
        msrs.setWriteBack()
        cpu.updateMode()
    }

    /// Flat segments as the boot protocols want them: code at 0x10, data at 0x18.
    private func enterFlat(
        entry: UInt64, gdt: InitialCPUState.DescriptorTable, codeAttributes: UInt32
    ) {
        for number in 0..<6 {
            cpu.setSegment(
                UInt8(number),
                Segment(selector: 0x18, attributes: 0xC093, limit: UInt32.max))
        }
        cpu.setSegment(
            SegmentRegister.cs,
            Segment(selector: 0x10, attributes: codeAttributes, limit: UInt32.max))
        cpu.setSegment(SegmentRegister.tr, Segment(attributes: 0x8B, limit: 0x67))
        cpu.fields.gdtr = TableRegister(base: gdt.base, limit: gdt.limit)
        cpu.fields.idtr = TableRegister(base: 0, limit: 0)
        cpu[2] = 0
        cpu.rip = entry
    }
}
