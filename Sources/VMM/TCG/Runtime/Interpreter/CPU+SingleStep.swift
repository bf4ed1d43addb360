// Debug traps and instruction breakpoints; code that needs them runs one instruction at a time
// (`ModeKey.singleStep`). SDM volume 3, section 18.3.1.

extension CPU {
    /// DR6.BS: a single step.
    private static let singleStepBit: UInt64 = 1 << 14

    /// Whether RIP has an enabled instruction breakpoint that RF does not suppress; DR6 is set.
    var isAtInstructionBreakpoint: Bool {
        guard fields.systemFlags & RFLAGS.rf == 0 else { return false }
        let linear = is64Bit ? rip : (segment(SegmentRegister.cs).base &+ rip) & 0xFFFF_FFFF
        var hits: UInt64 = 0
        for number in 0..<4 where isBreakpointEnabled(number) && breakpointKind(number) == 0 {
            if fields.debugRegisters[number] == linear { hits |= 1 << UInt64(number) }
        }
        fields.debugRegisters[6] |= hits
        return hits != 0
    }

    /// After an instruction: the traps that it has earned.
    func deliverDebugTraps() {
        var hits = fields.pendingDebug
        if fields.stepArmed { hits |= Self.singleStepBit }
        fields.stepArmed = false
        // A load of SS holds them off; the step is lost, the hits wait.
        guard hits != 0, fields.interruptShadow != 2 else { return }
        fields.pendingDebug = 0
        fields.debugRegisters[6] |= hits
        deliver(.debug)
    }
}
