internal import Accelerator

// The CPU's side of its local APIC: the register page, the MSRs, and what writes set off.

extension CPU {
    /// Counts an access to an APIC that is not this CPU's to use (see `TCGFallback`).
    private var isAPICElsewhere: Bool {
        if fields.apicAccesses < 0 { return false }
        fields.apicAccesses &+= 1
        return true
    }

    /// Reads the xAPIC page. Registers are 32 bits wide, 16 bytes apart.
    func readAPICPage(_ offset: UInt32, size: Int) -> UInt64 {
        if isAPICElsewhere { return 0 }
        guard offset & 0xF < 4 else { return 0 }
        let now = owner.guestTime()
        let value = owner.apic.with { registers in
            guard let value = registers.read(offset >> 4, now: now) else {
                registers.raise(APICError.illegalRegister)
                return 0 as UInt64
            }
            return value
        }
        return value >> UInt64(8 * (offset & 3)) & (UInt64.max >> UInt64(64 - 8 * size))
    }

    /// Writes the xAPIC page; only whole registers can be written.
    func writeAPICPage(_ offset: UInt32, size: Int, _ value: UInt64) {
        if isAPICElsewhere { return }
        guard offset & 0xF == 0, size >= 4 else { return }
        if case .illegal = writeAPIC(offset >> 4, value & 0xFFFF_FFFF) {
            owner.apic.with { $0.raise(APICError.illegalRegister) }
        }
        refreshInterrupts()
    }

    /// An x2APIC MSR; `register` counts from 0x800.
    func readX2APIC(_ register: UInt32) throws(Fault) -> UInt64 {
        let now = owner.guestTime()
        let value = owner.apic.with { $0.isX2 ? $0.read(register, now: now) : nil }
        guard let value else { throw .generalProtection(0) }
        return value
    }

    func writeX2APIC(_ register: UInt32, _ value: UInt64) throws(Fault) {
        guard owner.apic.with({ $0.isX2 }) else { throw .generalProtection(0) }
        if case .illegal = writeAPIC(register, value) { throw .generalProtection(0) }
        refreshInterrupts()
    }

    private func writeAPIC(_ register: UInt32, _ value: UInt64) -> APICAction {
        let owner = owner
        let now = owner.guestTime()
        let action = owner.apic.with { $0.write(register, value, now: now) }
        switch action {
        case .none, .illegal: break
        case .endOfInterrupt(let vector): owner.core.surface.endOfInterrupt(vector: vector)
        case .send(let command): owner.core.sendCommand(command, from: owner.apic)
        }
        if register == APICRegister.initialCount || register == APICRegister.divide
            || register == APICRegister.timer
        {
            owner.timerChanged()
        }
        return action
    }

    func writeAPICBase(_ value: UInt64) throws(Fault) {
        guard owner.apic.with({ $0.setBase(value) }) else { throw .generalProtection(0) }
        updateAPICPage()
        owner.timerChanged()
        refreshInterrupts()
    }

    /// Follows APIC_BASE with the address of the register page.
    func updateAPICPage() {
        let page = owner.apic.with {
            $0.isEnabled && !$0.isX2 ? $0.base & PageEntry.address : UInt64.max
        }
        if page == fields.apicPage { return }
        fields.apicPage = page
        flushTLB()
    }

    /// Looks whether an interrupt waits, and asks for service if it can be delivered.
    func refreshInterrupts() {
        fields.interruptPending = owner.apic.hasDeliverable
        if fields.interruptPending && fields.systemFlags & RFLAGS.interruptEnable != 0 {
            requestService()
        }
    }
}
