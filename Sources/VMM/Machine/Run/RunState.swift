internal import Accelerator
internal import Core

/// What becomes of a running machine: it follows the CPUs' reports, and restarts or ends the
/// machine when the guest or the user asks for it. Lives on the control thread.
// SAFETY: everything mutable is used on the control thread only.
final class RunState: @unchecked Sendable {
    /// What happens as soon as no CPU runs.
    private enum Action {
        case restart(EndCause)
        case end(Outcome)
    }

    /// What others are told of.
    enum Event {
        /// No CPU runs any more, as was asked for.
        case paused
        case resumed
        case reset(EndCause)
        /// The machine is about to end.
        case ending(EndCause)
    }

    private static let log = Log("machine")
    /// How often the devices are asked in a row whether they are done.
    private static let quickWaits = 1000

    private let policies: EndPolicies
    private let loop: EventLoop
    private weak var machine: Machine?
    /// CPUs that wait for an order.
    private var parked: Set<Int> = []
    /// Those among them that go on when the devices are done.
    private var waiting: Set<Int> = []
    private var waitTimer: EventRegistration?
    private var waitCount = 0
    private var action: Action?
    private var isResetting = false
    private var endTimer: EventRegistration?
    private(set) var outcome: Outcome?
    /// The CPUs are not to run, until `resume`.
    private(set) var isPaused = false
    /// Those who wait for the CPUs to rest.
    private var pauseWaits: [() -> Void] = []
    private var hasToldPause = false
    /// What is done while no CPU runs; they go on afterwards.
    private var errands: [() -> Void] = []
    var onEvent: (Event) -> Void = { _ in }
    var isEnding: Bool { if case .end = action { true } else { false } }

    init(policies: EndPolicies, loop: EventLoop) {
        self.policies = policies
        self.loop = loop
    }

    /// Starts the first CPU, and lets the others wait for it.
    func begin(_ machine: Machine, _ state: InitialCPUState) {
        self.machine = machine
        start(machine, state)
    }

    private func start(_ machine: Machine, _ state: InitialCPUState) {
        parked = []
        waiting = []
        // All of them before any runs: the first may call the others at once.
        for cpu in machine.cpus { cpu.prepare(cpu.index == 0 ? state : .reset) }
        for cpu in machine.cpus { resumeLater(cpu) }
    }

    /// Lets a CPU go on that has no order, now or at the end of a pause.
    private func resumeLater(_ cpu: VCPUThread) {
        if isPaused || !errands.isEmpty {
            parked.insert(cpu.index)
        } else {
            parked.remove(cpu.index)
            cpu.give(.resume)
        }
    }

    // MARK: Pauses

    /// Keeps the CPUs from running. Devices finish what the guest has asked them to do, and its
    /// clocks go on.
    /// - Parameter completion: called when no CPU runs, or `resume` has been called.
    func pause(then completion: @escaping () -> Void) {
        pauseWaits.append(completion)
        if !isPaused {
            isPaused = true
            for cpu in machine?.cpus ?? [] where !parked.contains(cpu.index) { cpu.pause() }
        }
        proceed()
    }

    /// Ends a pause.
    func resume() {
        guard isPaused else { return }
        isPaused = false
        if hasToldPause { onEvent(.resumed) }
        endPauseWaits()
        hasToldPause = false
        resumeParked()
    }

    /// Calls `errand` while no CPU runs, which nobody notices.
    func whileStill(_ errand: @escaping () -> Void) {
        errands.append(errand)
        for cpu in machine?.cpus ?? [] where !parked.contains(cpu.index) { cpu.pause() }
        proceed()
    }

    private func runErrands() {
        guard !errands.isEmpty else { return }
        let all = errands
        errands = []
        for errand in all { errand() }
        resumeParked()
    }

    /// Lets the CPUs go on that nothing else holds up. Those that have not reported yet go on when
    /// they do.
    private func resumeParked() {
        for index in parked.subtracting(waiting) { resume(index) }
    }

    private func completePause() {
        if !hasToldPause { onEvent(.paused) }
        hasToldPause = true
        endPauseWaits()
    }

    private func endPauseWaits() {
        let waits = pauseWaits
        pauseWaits = []
        for wait in waits { wait() }
    }

    // MARK: What comes in

    /// A CPU has stopped, for the given reason.
    func stopped(_ index: Int, _ exit: VCPUExit) {
        parked.insert(index)
        switch exit {
        // Of a pause that is over.
        case .kicked: resume(index)
        case .effect(let effect): take(effect, from: index)
        case .tripleFault: take(.tripleFault, policies.tripleFault)
        case .internalError(let reason):
            Self.log(.error, "CPU \(index) cannot go on: \(reason)")
            request(.end(.error), .hostError)
        }
        proceed()
    }

    private func take(_ effect: MachineEffect, from index: Int) {
        switch effect {
        case .reset: take(.reboot, policies.reboot)
        case .powerOff: take(.powerOff, policies.shutdown)
        case .panicked: take(.panic, policies.panic)
        case .debugExit: request(.end(.powerOff), .guestShutdown)
        case .none, .crashLoaded: resume(index)
        case .awaitDevices:
            waiting.insert(index)
            waitCount = 0
            awaitDevices()
        }
    }

    private func resume(_ index: Int) {
        guard action == nil, let cpu = machine?.cpus[index] else { return }
        resumeLater(cpu)
    }

    /// Lets the waiting CPUs go on as soon as the devices are done.
    private func awaitDevices() {
        waitTimer = nil
        guard let machine, !waiting.isEmpty else { return }
        if machine.settleDevices() {
            for index in waiting { resume(index) }
            waiting = []
        } else {
            // Devices are quick, or gone for long.
            waitCount += 1
            waitTimer = loop.after(milliseconds: waitCount < Self.quickWaits ? 0 : 1) {
                [weak self] in self?.awaitDevices()
            }
        }
    }

    private func take(_ outcome: Outcome, _ policy: EndPolicy) {
        // What a guest's user did not ask for must not end silently.
        let isAccident = outcome == .panic || outcome == .tripleFault
        Self.log(isAccident ? .warning : .info, outcome.meaning)
        let cause: EndCause =
            switch outcome {
            case .powerOff: .guestShutdown
            case .panic: .guestPanic
            default: .guestReset
            }
        request(policy == .restart ? .restart(cause) : .end(outcome), cause)
    }

    func consoleEvent(_ event: HostConsole.Event) {
        switch event {
        case .leave: end(.ended, .hostUI)
        case .firstUserLine: machine?.reachedUserSpace()
        }
    }

    /// The process is in the foreground again.
    func continued() { machine?.console.continued() }

    /// The user's terminal may have another size.
    func resized() {
        machine?.console.resized()
        for device in machine?.devices ?? [] { device.terminalChanged() }
    }

    /// Newer backends are to take the places of those that run.
    func upgradeBackends() {
        for device in machine?.devices ?? [] { device.upgrade() }
    }

    /// Ends the machine, whatever the guest is doing.
    func end(_ outcome: Outcome, _ cause: EndCause) {
        request(.end(outcome), cause)
        proceed()
    }

    /// Resets the machine, whatever the guest is doing.
    func reset(_ cause: EndCause) {
        request(.restart(cause), cause)
        proceed()
    }

    // MARK: What is done

    /// The first request counts, except that an end overrules a restart.
    private func request(_ new: Action, _ cause: EndCause) {
        switch action {
        case nil, .restart: action = new
        case .end: return
        }
        if case .end = new {
            onEvent(.ending(cause))
            endTimer = machine?.abandonSilentDevices()
        }
        for cpu in machine?.cpus ?? [] where !parked.contains(cpu.index) { cpu.pause() }
    }

    private func proceed() {
        guard let machine, parked.count == machine.cpus.count else { return }
        runErrands()
        if isPaused { completePause() }
        switch action {
        case nil: break
        case .restart: restart(machine)
        case .end(let outcome): finish(machine, outcome)
        }
    }

    private func restart(_ machine: Machine) {
        guard !isResetting else { return }
        isResetting = true
        machine.resetDevices { [self] in startAgain(machine) }
    }

    private func startAgain(_ machine: Machine) {
        isResetting = false
        guard case .restart(let cause) = action else { return }
        do {
            let state = try machine.load()
            action = nil
            onEvent(.reset(cause))
            start(machine, state)
        } catch {
            Self.log(.error, "\(error)")
            action = .end(.error)
            finish(machine, .error)
        }
    }

    private func finish(_ machine: Machine, _ outcome: Outcome) {
        guard self.outcome == nil else { return }
        self.outcome = outcome
        endTimer = nil
        for cpu in machine.cpus { cpu.give(.end) }
        for cpu in machine.cpus { cpu.join() }
        loop.quit()
    }
}
