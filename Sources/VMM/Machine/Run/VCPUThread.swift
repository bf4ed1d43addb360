internal import Accelerator
internal import CLinux
internal import Core
internal import Synchronization

/// The thread of one virtual CPU. It waits for an order, runs the CPU until something happens,
/// reports that, and waits for the next order. Orders come from the control thread.
final class VCPUThread: Sendable {
    enum Order: Sendable {
        /// Go on where the CPU stopped, or from the registers that `prepare` set.
        case resume
        /// Leave the thread.
        case end
    }

    private struct Shared {
        var order: Order?
        var mustPause = false
    }

    let index: Int
    private let cpu: any VirtualCPU
    private let shared = Mutex(Shared())
    private let orderGiven = Semaphore()
    private let report: @Sendable (Int, VCPUExit) -> Void
    private let willRun: @Sendable () -> Void
    private let filter: SeccompFilter?
    private let thread = Mutex<Thread?>(nil)
    private let instructions = Atomic<UInt64>(0)
    private let systemID = Atomic<Int32>(0)

    /// - Parameters:
    ///   - filter: what the thread restricts itself with.
    ///   - willRun: called on the thread before the CPU runs.
    ///   - report: called on the thread when the CPU has stopped; `kicked` after `pause` only.
    init(
        index: Int, cpu: any VirtualCPU, filter: SeccompFilter? = nil,
        willRun: @escaping @Sendable () -> Void,
        report: @escaping @Sendable (Int, VCPUExit) -> Void
    ) {
        self.index = index
        self.cpu = cpu
        self.filter = filter
        self.willRun = willRun
        self.report = report
    }

    /// Starts the thread, which waits for its first order.
    func launch() throws(SystemError) {
        let new = try Thread(name: "vcpu\(index)", stackSize: 1 << 20) { [self] in serve() }
        thread.withLock { $0 = new }
    }

    /// Sets the registers that a CPU starts from, which waits for an order.
    func prepare(_ state: InitialCPUState) { cpu.setInitialState(state) }

    /// Gives the next order to a CPU that has reported, or has not had any.
    func give(_ order: Order) {
        shared.withLock {
            $0.order = order
            $0.mustPause = false
        }
        orderGiven.signal()
    }

    /// Makes a running CPU report `kicked` soon, unless it reports something else first.
    func pause() {
        shared.withLock { $0.mustPause = true }
        cpu.kick()
    }

    /// Waits for the thread's end, after `end`.
    func join() { thread.withLock { $0.take() }?.join() }

    /// Instructions retired when the CPU last stopped.
    var retiredInstructions: UInt64 { instructions.load(ordering: .relaxed) }

    /// What the user is to be told after the thread's end.
    var summary: String? { cpu.summary }

    /// The thread's number on the host; 0 before it runs.
    var threadID: Int32 { systemID.load(ordering: .relaxed) }

    private func serve() {
        systemID.store(clinux_gettid(), ordering: .relaxed)
        filter?.loadOrEnd()
        while true {
            orderGiven.wait()
            switch shared.withLock({ $0.order.take() }) {
            case .resume, nil: break
            case .end: return
            }
            willRun()
            let exit = runUntilStopped()
            instructions.store(cpu.retiredInstructions, ordering: .relaxed)
            report(index, exit)
        }
    }

    private func runUntilStopped() -> VCPUExit {
        while true {
            let exit = cpu.run()
            guard case .kicked = exit else { return exit }
            // A kick that a pause did not cause is nobody's business.
            if shared.withLock({ $0.mustPause }) { return exit }
        }
    }
}
