internal import Synchronization

// What happens between instructions: interrupts, timers, debug traps, kicks.

extension CPU {
    /// Looks at everything that may be waiting: interrupts, timers, kicks. Call it between
    /// instructions (`rip` and `retired` exact, no interrupt shadow) when `exitRequest` is not
    /// zero or the budget is used up. Returns `true` when `execute` must return to `TCGVCPU.run`.
    func serviceInterrupts() -> Bool {
        let owner = owner
        owner.block.clearExitRequest()
        answerAwaiting()
        if owner.mustReturn {
            // `run` takes it from here; the next call must come at once.
            requestService()
            return true
        }
        hearOfChanges()
        let mustReturn = takeEvents(owner)
        // What was changed before an interrupt was sent has been heard of when its handler begins.
        hearOfChanges()
        limitGenerations()
        return mustReturn
    }

    /// Looks again at what others have changed, or may have.
    private func hearOfChanges() {
        let apic = owner.apic
        if apic.codeMayHaveChanged.load(ordering: .relaxed) { lookAtCode() }
        if isNews(apic.deviceMayHaveWritten) { flushLocalCodeLookups() }
        if isNews(apic.memoryHasMoved) { flushTLB() }
    }

    private func isNews(_ flag: borrowing Atomic<Bool>) -> Bool {
        flag.load(ordering: .relaxed) && flag.exchange(false, ordering: .acquiring)
    }

    private func takeEvents(_ owner: TCGVCPU) -> Bool {
        owner.apic.advanceTimer(to: owner.guestTime())
        let events = owner.apic.takeEvents()
        if events.nmiCount > 0 {
            // Behind one in service a single NMI is latched (SDM volume 3, section 6.7.1).
            fields.pendingNMIs = min(
                fields.pendingNMIs + events.nmiCount, fields.isNMIBlocked ? 1 : 2)
        }
        if events.hasINIT { owner.initialise() }
        // A start-up IPI that is seen together with an INIT came after it.
        if let vector = events.startUp { owner.startUp(vector) }
        if events.hasINIT { return true }
        if owner.isWaitingForStartUp { return true }
        if fields.pendingDebug != 0 { raiseDebugTrap() }
        deliverPending()
        owner.updateBudget()
        return fields.isShutDown || fields.isHalted
    }

    /// Delivers an NMI or an interrupt if the CPU takes it now.
    private func deliverPending() {
        fields.interruptPending = owner.apic.hasDeliverable
        if fields.pendingNMIs > 0 && !fields.isNMIBlocked {
            fields.pendingNMIs -= 1
            fields.isNMIBlocked = true
            fields.isHalted = false
            deliverInterrupt(2)
        } else if fields.interruptPending && fields.systemFlags & RFLAGS.interruptEnable != 0,
            let vector = owner.apic.acknowledge()
        {
            fields.isHalted = false
            deliverInterrupt(vector)
            fields.interruptPending = owner.apic.hasDeliverable
        }
        if fields.interruptPending && fields.systemFlags & RFLAGS.interruptEnable != 0 {
            requestService()
        }
    }

    /// HLT, with its privilege check. The caller then moves `rip` on and leaves the block.
    func halt() throws(Fault) {
        try requireSupervisor()
        fields.isHalted = true
        requestService()
    }

    // MARK: Single steps. With `ModeKey.singleStep` in force the interpreter calls these around
    // every instruction.

    /// Instruction breakpoints. `rip` is the instruction's.
    func beforeStep() throws(Fault) {
        fields.stepArmed = fields.systemFlags & RFLAGS.tf != 0
        let isResuming = fields.systemFlags & RFLAGS.rf != 0
        // RF holds for this instruction only; IRET may set it again.
        fields.systemFlags &= ~RFLAGS.rf
        if isResuming || !hasBreakpoints { return }
        let linear = (addressBase(SegmentRegister.cs) &+ rip) & codeMask
        var hits: UInt64 = 0
        for number in 0..<4 where isBreakpointEnabled(number) && breakpointKind(number) == 0 {
            if fields.debugRegisters[number] & linearMask == linear { hits |= 1 << UInt64(number) }
        }
        if hits == 0 { return }
        recordDebugException(hits)
        throw .debug
    }

    /// Debug traps. `rip` is the next instruction's. Not to be called when the instruction
    /// faulted.
    func afterStep() {
        if fields.stepArmed { fields.pendingDebug |= DR6.bs }
        fields.stepArmed = false
        // A load of SS holds breakpoints back for one instruction; a step is lost.
        if fields.interruptShadow == 2 { fields.pendingDebug &= ~DR6.bs }
        if fields.pendingDebug != 0 && fields.interruptShadow != 2 { raiseDebugTrap() }
    }

    /// A debug trap also ends a HLT.
    private func raiseDebugTrap() {
        recordDebugException(fields.pendingDebug)
        fields.pendingDebug = 0
        fields.isHalted = false
        deliver(.debug)
    }
}
