internal import Core
internal import Synchronization

// Time as the guest sees it. The TSC runs at 1 GHz, so that it and all timers count nanoseconds
// since the machine's start; TSC_ADJUST is the difference between the two.

extension TCGVCPU {
    /// Nanoseconds since the machine's start.
    func guestTime() -> UInt64 {
        switch core.options.clock {
        case .host: core.hostTime()
        case .counted: cpu.fields.retired &+ skippedTime
        }
    }

    /// The local APIC's timer was set: whoever watches it must know.
    func timerChanged() {
        let deadline = apic.deadline.load(ordering: .relaxed)
        switch core.options.clock {
        case .host: if deadline != UInt64.max { core.timers.deadlineChanged(deadline) }
        case .counted: updateBudget()
        }
    }

    /// How many instructions may run before the next timer, in counted mode.
    func updateBudget() {
        guard core.options.clock == .counted else {
            cpu.budget = Self.unlimited
            return
        }
        let deadline = apic.deadline.load(ordering: .relaxed)
        let now = guestTime()
        let left = deadline <= now ? 1 : deadline - now
        cpu.budget = Int64(clamping: min(left, UInt64(Self.unlimited)))
    }

    static let unlimited: Int64 = 1 << 62
}

extension CPU {
    /// The time-stamp counter.
    func readTimestamp() -> UInt64 { owner.guestTime() &+ fields.tscAdjust }

    /// RDTSC, with CR4.TSD's check.
    func rdtsc() throws(Fault) -> UInt64 {
        if fields.cr4 & CR4.tsd != 0 && cpl != 0 && !isRealMode { throw .generalProtection(0) }
        return readTimestamp()
    }

    /// Sets the difference between TSC and time, and what depends on it.
    func setTimestampOffset(_ offset: UInt64) {
        fields.tscAdjust = offset
        let owner = owner
        if owner.msrs.clock & 1 != 0 { writeClockPage(owner.msrs.clock & ~1) }
        setTimerDeadline(owner.msrs.deadline)
    }

    /// The MSR TSC_DEADLINE (SDM volume 3, section 11.5.4.1).
    func setTimerDeadline(_ value: UInt64) {
        let owner = owner
        let time = value == 0 ? nil : Optional(deadlineTime(value))
        let isArmed = owner.apic.with {
            $0.timer.setDeadline(time)
            return $0.timer.mode == .deadline
        }
        owner.msrs.deadline = isArmed ? value : 0
        owner.timerChanged()
        if isArmed && value != 0 { requestService() }
    }

    /// The TSC value as time; what lies in the past is due at once.
    private func deadlineTime(_ value: UInt64) -> UInt64 {
        let (time, overflow) = value.subtractingReportingOverflow(fields.tscAdjust)
        // With a negative adjustment the subtraction wraps around on purpose.
        if overflow && fields.tscAdjust >> 63 == 0 { return 0 }
        return min(time, UInt64.max - 1)
    }

    // MARK: The KVM clock (Linux, Documentation/virt/kvm/x86/msr.rst)

    /// Fills the per-CPU time structure at a physical address. The version is odd while it is
    /// being written.
    func writeClockPage(_ physical: UInt64) {
        guard let host = unsafe physicalHost(physical, count: 32) else { return }
        let now = owner.guestTime()
        // SAFETY: 32 bytes are guest memory.
        let version = unsafe host.loadUnaligned(as: UInt32.self) | 1
        unsafe host.storeBytes(of: version, as: UInt32.self)
        unsafe host.storeBytes(of: 0, toByteOffset: 4, as: UInt32.self)
        unsafe host.storeBytes(of: now &+ fields.tscAdjust, toByteOffset: 8, as: UInt64.self)
        unsafe host.storeBytes(of: now, toByteOffset: 16, as: UInt64.self)
        // ns = ((ticks << 1) * 2^31) >> 32.
        unsafe host.storeBytes(of: 0x8000_0000, toByteOffset: 24, as: UInt32.self)
        unsafe host.storeBytes(of: 1, toByteOffset: 28, as: UInt8.self)
        // PVCLOCK_TSC_STABLE_BIT.
        unsafe host.storeBytes(of: 1, toByteOffset: 29, as: UInt8.self)
        unsafe host.storeBytes(of: 0, toByteOffset: 30, as: UInt16.self)
        unsafe host.storeBytes(of: version &+ 1, as: UInt32.self)
    }

    /// Fills the wall clock structure: the time of day at the machine's start.
    func writeWallClock(_ physical: UInt64) {
        guard let host = unsafe physicalHost(physical, count: 12) else { return }
        let start = owner.core.wallClockAtStart
        // SAFETY: 12 bytes are guest memory.
        let version = unsafe host.loadUnaligned(as: UInt32.self) | 1
        unsafe host.storeBytes(of: version, as: UInt32.self)
        let seconds = UInt32(truncatingIfNeeded: start / 1_000_000_000)
        let rest = UInt32(truncatingIfNeeded: start % 1_000_000_000)
        unsafe host.storeBytes(of: seconds, toByteOffset: 4, as: UInt32.self)
        unsafe host.storeBytes(of: rest, toByteOffset: 8, as: UInt32.self)
        unsafe host.storeBytes(of: version &+ 1, as: UInt32.self)
    }
}
