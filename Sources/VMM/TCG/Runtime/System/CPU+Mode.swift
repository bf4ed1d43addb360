extension CPU {
    /// Recomputes what follows from CS, SS, CR0, CR4, XCR0, EFER, CPL, AC and TF: `addressBase`,
    /// `codeSize`, `tlb`, `modeKey`. The only place that does.
    func updateMode() {
        let code = segment(SegmentRegister.cs)
        let size: UInt8 = fields.isLongMode && code.isLong ? 8 : code.isBig ? 4 : 2
        fields.codeSize = size
        for number in 0..<8 {
            let hasBase = size != 8 || number >= Int(SegmentRegister.fs)
            fields.addressBase[number] = hasBase ? fields.segments[number].base : 0
        }
        var key = UInt32(size)
        if size == 8 || segment(SegmentRegister.ss).isBig { key |= ModeKey.bigStack }
        if cpl == 3 { key |= ModeKey.user }
        if isProtectedMode { key |= ModeKey.protected }
        if size == 8 || hasFlatSegments { key |= ModeKey.flat }
        let isStepping = fields.systemFlags & RFLAGS.tf != 0
        if isStepping || hasBreakpoints { key |= ModeKey.singleStep }
        let hasNoFPU = fields.cr0 & (CR0.em | CR0.ts) != 0 || fields.cr4 & CR4.osfxsr == 0
        if hasNoFPU { key |= ModeKey.noFPU }
        if !isAVXEnabled || fields.cr0 & CR0.ts != 0 { key |= ModeKey.noAVX }
        let old = fields.modeKey
        fields.modeKey = key
        updateAccessMode()
        // What leads from block to block knows nothing of these.
        let unlinked = ModeKey.noFPU | ModeKey.noAVX | ModeKey.smap
        if (old ^ fields.modeKey) & unlinked != 0 { flushCodeLookups() }
    }

    /// CR4 and XCR0 allow AVX instructions, which they do not in the models without them.
    var isAVXEnabled: Bool {
        let needed = ExtendedStateLayout.sse | ExtendedStateLayout.avx
        return fields.cr4 & CR4.osxsave != 0 && fields.xcr0 & needed == needed
    }

    /// The part of `updateMode` that depends on CPL and AC: which soft TLB is in force.
    func updateAccessMode() {
        let hasAC = fields.systemFlags & RFLAGS.ac != 0
        let hasSMAP = fields.cr4 & CR4.smap != 0
        let mode: Int
        if cpl == 3 {
            mode = hasAC && fields.cr0 & CR0.am != 0 ? TLBMode.userAligned : TLBMode.user
        } else {
            mode = !hasAC && hasSMAP ? TLBMode.supervisorSMAP : TLBMode.supervisor
        }
        fields.tlbMode = UInt8(mode)
        fields.modeKey =
            fields.modeKey & ~(ModeKey.accessMode | ModeKey.smap)
            | UInt32(mode) << ModeKey.accessModeShift | (hasSMAP ? ModeKey.smap : 0)
        // SAFETY: the mode is below `TLB.modes`.
        unsafe state.pointee.tlb = state.pointee.tlbTables + mode * TLB.entries
    }

    private var hasFlatSegments: Bool {
        for number in 0..<4 {
            let segment = fields.segments[number]
            guard segment.isUsable, segment.base == 0, segment.limit == UInt32.max else {
                return false
            }
            // Code must be readable, data writable and not expand-down.
            let isCode = segment.type & 8 != 0
            if segment.type & 2 == 0 || (!isCode && segment.type & 4 != 0) { return false }
        }
        return true
    }

    /// Sets all flags but the arithmetic ones, and what depends on them.
    func setSystemFlags(_ flags: UInt64) {
        let old = fields.systemFlags
        fields.systemFlags = (flags & ~RFLAGS.arithmetic) | 2
        // RF lasts for one instruction; nobody would see it, and nobody would clear it.
        if !hasBreakpoints { fields.systemFlags &= ~RFLAGS.rf }
        let watched = RFLAGS.tf | RFLAGS.ac | RFLAGS.vm
        if (old ^ flags) & watched != 0 { updateMode() }
        if flags & RFLAGS.interruptEnable != 0 && fields.interruptPending { requestService() }
    }

    /// Sets all of RFLAGS.
    func setFlags(_ flags: UInt64) {
        setArithmeticFlags(flags)
        setSystemFlags(flags)
    }

    /// Some breakpoint is enabled in DR7.
    var hasBreakpoints: Bool { fields.debugRegisters[7] & 0xFF != 0 }

    var isVM86: Bool { fields.systemFlags & RFLAGS.vm != 0 }
    var isRealMode: Bool { fields.cr0 & CR0.pe == 0 }
    var iopl: UInt8 { UInt8((fields.systemFlags >> 12) & 3) }

    func setSegment(_ register: UInt8, _ segment: Segment) {
        fields.segments[Int(register & 7)] = segment
    }
}
