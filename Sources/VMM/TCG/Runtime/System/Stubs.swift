// The names that the interpreter calls. What is still a stub here moves to its own file; the
// signatures stay.

/// Which instruction asks for a software interrupt; they differ in their privilege checks and in
/// EXT (SDM volume 3, section 6.12.1.2).
enum SoftwareInterruptKind: UInt8 {
    case int
    case int3
    case into
    case int1
}

extension CPU {
    // MARK: Segments and far transfers. `rip` is the current instruction's on entry; on success
    // they set it, CS, CPL and the code size.

    func loadSegment(_ register: UInt8, selector: UInt16) throws(Fault) { throw .invalidOpcode }
    func loadLDT(selector: UInt16) throws(Fault) { throw .invalidOpcode }
    func loadTaskRegister(selector: UInt16) throws(Fault) { throw .invalidOpcode }
    func farJump(
        selector: UInt16, offset: UInt64, operandSize: UInt8, nextRIP: UInt64
    ) throws(Fault) { throw .invalidOpcode }
    func farCall(
        selector: UInt16, offset: UInt64, operandSize: UInt8, nextRIP: UInt64
    ) throws(Fault) { throw .invalidOpcode }
    func farReturn(operandSize: UInt8, popBytes: UInt16) throws(Fault) { throw .invalidOpcode }
    func interruptReturn(operandSize: UInt8, nextRIP: UInt64) throws(Fault) {
        throw .invalidOpcode
    }
    func systemCall(nextRIP: UInt64) throws(Fault) { throw .invalidOpcode }
    func systemReturn(operandSize: UInt8) throws(Fault) { throw .invalidOpcode }
    func sysenter(nextRIP: UInt64) throws(Fault) { throw .invalidOpcode }
    func sysexit(operandSize: UInt8) throws(Fault) { throw .invalidOpcode }

    /// LAR and LSL: `nil` clears ZF.
    func lar(_ selector: UInt16) throws(Fault) -> UInt32? { throw .invalidOpcode }
    func lsl(_ selector: UInt16) throws(Fault) -> UInt32? { throw .invalidOpcode }
    func verr(_ selector: UInt16) throws(Fault) -> Bool { throw .invalidOpcode }
    func verw(_ selector: UInt16) throws(Fault) -> Bool { throw .invalidOpcode }

    /// RDFSBASE's and WRFSBASE's kind of base access (no checks but for a canonical value).
    func setSegmentBase(_ register: UInt8, _ base: UInt64) throws(Fault) { throw .invalidOpcode }
    func swapGS() throws(Fault) { throw .invalidOpcode }

    // MARK: Exceptions and interrupts

    /// Delivers a fault; `rip` is the faulting instruction's. Handles double and triple faults.
    func deliver(_ fault: Fault) {}
    /// INT n, INT3, INTO, INT1. Faults that the delivery itself meets are thrown; `rip` must
    /// still be the instruction's.
    func softwareInterrupt(
        vector: UInt8, nextRIP: UInt64, kind: SoftwareInterruptKind
    ) throws(Fault) { throw .invalidOpcode }
    /// Looks at everything that may be waiting: interrupts, timers, kicks. Call it between
    /// instructions (`rip` and `retired` exact) when `exitRequest` is not zero or the budget is
    /// used up. Returns `true` when `execute` must return to `TCGVCPU.run`.
    func serviceInterrupts() -> Bool { true }
    /// HLT, with its privilege check. The caller then moves `rip` on and leaves the block.
    func halt() throws(Fault) { throw .invalidOpcode }

    // MARK: Flags

    func cli() throws(Fault) { throw .invalidOpcode }
    func sti() throws(Fault) { throw .invalidOpcode }
    func stac() throws(Fault) { throw .invalidOpcode }
    func clac() throws(Fault) { throw .invalidOpcode }
    /// POPF of a value of `operandSize` bytes.
    func popFlags(_ value: UInt64, operandSize: UInt8) throws(Fault) { throw .invalidOpcode }
    /// What PUSHF pushes.
    func flagsToPush(operandSize: UInt8) throws(Fault) -> UInt64 { throw .invalidOpcode }

    // MARK: Control registers, MSRs and the like. All check privilege.

    func readControlRegister(_ number: UInt8) throws(Fault) -> UInt64 { throw .invalidOpcode }
    func writeControlRegister(_ number: UInt8, _ value: UInt64) throws(Fault) {
        throw .invalidOpcode
    }
    func readDebugRegister(_ number: UInt8) throws(Fault) -> UInt64 { throw .invalidOpcode }
    func writeDebugRegister(_ number: UInt8, _ value: UInt64) throws(Fault) {
        throw .invalidOpcode
    }
    /// LMSW.
    func loadMachineStatusWord(_ value: UInt16) throws(Fault) { throw .invalidOpcode }
    /// CLTS.
    func clearTaskSwitched() throws(Fault) { throw .invalidOpcode }
    /// #GP(0) where CR4.UMIP forbids SGDT, SIDT, SLDT, SMSW and STR.
    func checkUserModeInstructionPrevention() throws(Fault) {}
    /// #GP(0) unless CPL is 0.
    @inline(__always)
    func requireSupervisor() throws(Fault) {
        if cpl != 0 { throw .generalProtection(0) }
    }
    /// RDMSR and WRMSR with their register operands.
    func readMSR() throws(Fault) { throw .invalidOpcode }
    func writeMSR() throws(Fault) { throw .invalidOpcode }
    /// CPUID with its register operands.
    func cpuid() {}
    /// The time-stamp counter.
    func readTimestamp() -> UInt64 { 0 }
    /// RDTSC, with CR4.TSD's check.
    func rdtsc() throws(Fault) -> UInt64 { throw .invalidOpcode }
    /// INVLPG.
    func invalidatePage(_ linear: UInt64) throws(Fault) { throw .invalidOpcode }
    /// INVPCID; `descriptor` is the operand's linear address.
    func invpcid(type: UInt64, descriptor: UInt64) throws(Fault) { throw .invalidOpcode }
    /// VMCALL and VMMCALL.
    func hypercall() throws(Fault) { throw .invalidOpcode }

    // MARK: Ports

    func portIn(_ port: UInt16, size: Int) throws(Fault) -> UInt32 { throw .invalidOpcode }
    func portOut(_ port: UInt16, size: Int, _ value: UInt32) throws(Fault) {
        throw .invalidOpcode
    }

    // MARK: Mode

    /// Recomputes what follows from CS, SS, CR0, CR4, EFER, CPL, AC and TF: `addressBase`,
    /// `codeSize`, `tlb`, `modeKey`. The only place that does.
    func updateMode() {}
}
