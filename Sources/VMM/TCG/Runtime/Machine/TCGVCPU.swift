public import Accelerator
internal import Core
internal import Synchronization

/// One virtual CPU of Apus's own making.
// SAFETY: everything mutable belongs to the thread that runs the CPU; the atomics, the bell and
// the APIC are for others.
@safe public final class TCGVCPU: VirtualCPU, @unchecked Sendable {
    let core: MachineCore
    let index: Int
    let block: VCPUBlock
    let apic: LocalAPIC
    let cpuid: CPUIDTable
    /// With `tier=both`.
    let lockstep: Lockstep?
    /// With `stats=on`.
    let mnemonics: MnemonicCounts?
    var msrs = MSRStore()
    /// Counted mode: time that passed while the CPU was halted.
    var skippedTime: UInt64 = 0
    /// After INIT, until a start-up IPI comes.
    var isWaitingForStartUp = false
    private let isKicked = Atomic<Bool>(false)

    var cpu: CPU { block.cpu }
    var model: CPUModel { core.model }

    init(core: MachineCore, index: Int) throws(SystemError) {
        self.core = core
        self.index = index
        block = try VCPUBlock(
            ram: core.ram, windows: core.windows, codePages: try core.codePages(), index: index)
        apic = LocalAPIC(id: UInt32(index), isBootstrap: index == 0, block: block)
        lockstep = core.options.tier == .both ? try Lockstep() : nil
        mnemonics = core.options.showsStatistics ? MnemonicCounts() : nil
        block.cpu.counters.notesNames = core.options.showsStatistics
        cpuid = CPUIDTable(
            id: UInt32(index), cpuCount: core.options.cpuCount, model: core.model)
        if core.model.hasAVX { block.cpu.fields.extendedComponents = ExtendedStateLayout.avx }
        block.cpu.fields.isOnlyCPU = core.options.cpuCount <= 1 && index == 0
        switch core.options.tier {
        case .interpreter: break
        case .translator:
            block.cpu.fields.translationThreshold = HostTranslator.usualThreshold
        case .both:
            block.cpu.fields.translationThreshold = 0
            block.cpu.fields.lockstep = Lockstep.Stage.idle
        }
        core.add(apic)
        // SAFETY: unowned; this object outlives its block's use.
        unsafe block.state.pointee.owner = UnsafeRawPointer(
            Unmanaged.passUnretained(self).toOpaque())
        reset()
    }

    public func setInitialState(_ state: InitialCPUState) { enter(state) }

    public func run() -> VCPUExit {
        block.isRunning = true
        defer { block.isRunning = false }
        while true {
            if let report = lockstep?.report { return .internalError(report) }
            if isKicked.exchange(false, ordering: .acquiring) { return .kicked }
            if cpu.fields.isShutDown {
                cpu.fields.isShutDown = false
                return .tripleFault
            }
            if let effect = takeEffect() { return .effect(effect) }
            if isWaitingForStartUp || cpu.fields.isHalted {
                rest()
            } else {
                cpu.execute()
            }
        }
    }

    /// Whether `execute` must return although the CPU could go on.
    var mustReturn: Bool {
        isKicked.load(ordering: .relaxed) || cpu.fields.isShutDown || cpu.fields.pendingEffect != 0
            || lockstep?.report != nil
    }

    private func takeEffect() -> MachineEffect? {
        guard let effect = MachineEffect(rawValue: cpu.fields.pendingEffect), effect != .none
        else { return nil }
        cpu.fields.pendingEffect = 0
        return effect
    }

    /// A CPU that has nothing to run: waits until something comes.
    private func rest() {
        let isDone = cpu.serviceInterrupts()
        guard isDone, isWaitingForStartUp || cpu.fields.isHalted, !mustReturn else { return }
        let deadline = isWaitingForStartUp ? UInt64.max : apic.deadline.load(ordering: .relaxed)
        if deadline == UInt64.max { return sleep(timeout: -1) }
        let now = guestTime()
        let left = deadline > now ? deadline - now : 0
        switch core.options.clock {
        case .host: if left > 0 { sleep(timeout: Int64(clamping: left)) }
        case .counted:
            // A moment for devices to answer, so that idle guests do not race ahead of them.
            sleep(timeout: Int64(clamping: min(left, 1_000_000)))
            if !cpu.hasExitRequest { skippedTime &+= left }
        }
    }

    private func sleep(timeout: Int64) {
        block.isRunning = false
        block.sleep(timeout: timeout)
        block.isRunning = true
    }

    public func kick() {
        isKicked.store(true, ordering: .releasing)
        block.ring()
    }

    public var retiredInstructions: UInt64 { cpu.fields.retired }

    public var summary: String? {
        var lines: [String] = []
        if let lockstep {
            lines.append(
                "tier=both: \(lockstep.comparedRuns) runs of blocks were the same in both tiers; "
                    + "\(lockstep.otherRuns) were not compared, of them \(lockstep.disturbedRuns)"
                    + " because memory changed meanwhile")
        }
        if core.options.showsStatistics {
            lines.append(StatisticsReport(cpu, index: index, names: mnemonics).text)
        }
        return lines.isEmpty ? nil : lines.joined(separator: "\n")
    }
}
