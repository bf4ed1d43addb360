internal import Accelerator
internal import Core
internal import Devices
internal import Synchronization
internal import VhostUser

/// A device of the machine that a backend serves: its transport, the front end of its backend, and
/// the backend's process if it is one of ours. All of them live on the device's control thread, so
/// a backend that does not answer keeps nobody waiting but who asks for that device.
// SAFETY: `backend` and `release` are used on the control thread, but for what may be called from
// others: `Frontend.connections`, `BackendProcess.processID`.
final class AttachedDevice: @unchecked Sendable {
    private static let log = Log("device")

    /// Who serves a device.
    struct Backend {
        /// The device's number in the machine's options.
        let index: Int
        /// What messages call the device.
        let title: String
        let frontend: Frontend
        /// `nil` if it is somebody else's.
        let process: BackendProcess?
    }

    let function: VirtioPCI
    let control: ControlThread
    private let backend: Backend
    private var release: EventRegistration?
    private let answered = Atomic<Bool>(true)

    /// - Parameters:
    ///   - control: the device's own, or in lockstep the machine's.
    ///   - isExpress: it is behind a port.
    init(
        _ backend: Backend, control: ControlThread, pace: VirtioPCI.Pace, isExpress: Bool,
        memory: GuestMemory, machine: any VirtualMachine
    ) throws(SystemError) {
        self.backend = backend
        self.control = control
        let frontend = backend.frontend
        function = try VirtioPCI(
            frontend, memory: memory, machine: machine, control: control, pace: pace,
            isExpress: isExpress, shared: frontend.window)
        frontend.onFirstStart = { [weak self] in
            self?.release = StartupMemory.release(on: control.loop)
        }
        frontend.onConfigChange = { [weak function] in function?.configChanged() }
        frontend.onWindowChange = { [weak machine] in machine?.memoryChangedOutside() }
        frontend.onQueueError = { [weak function] queue in
            function?.deviceFailed("the back end cannot go on with queue \(queue)")
        }
    }

    /// The device's number in the machine's options.
    var index: Int { backend.index }

    /// What has become of its backends, and the process of the present one if it is ours.
    var service: (connections: ConnectionRecord, processID: Int32?) {
        (backend.frontend.connections, backend.process?.processID)
    }

    /// Resets the device; `completion` is called on some thread when that is done.
    func reset(then completion: @escaping @Sendable () -> Void) {
        control.begin({ [function] in function.reset() }, then: completion)
    }

    /// Lets the device finish what it is doing and ends its process; `completion` as above.
    func stop(then completion: @escaping @Sendable () -> Void) {
        control.begin(
            { [self] in
                release = nil
                function.reset()
                backend.frontend.close()
                backend.process?.end()
            }, then: completion)
    }

    /// The terminal that its process may have has another size.
    func terminalChanged() {
        control.begin({ [self] in backend.process?.terminalChanged() }, then: {})
    }

    /// Lets a new backend take the place of the present one.
    func upgrade() {
        control.begin(
            { [self] in
                do {
                    if let process = backend.process {
                        try process.upgrade()
                    } else {
                        try backend.frontend.upgradeFromPath()
                    }
                    Self.log(.info, "\(backend.title) has a new back end")
                } catch {
                    Self.log(.error, "\(backend.title) has no new back end: \(error)")
                }
            }, then: {})
    }

    /// Asks the device's thread for a sign of life.
    func ask() {
        answered.store(false, ordering: .relaxed)
        control.begin({}, then: { [self] in answered.store(true, ordering: .relaxed) })
    }

    /// Whether it has given one since.
    var hasAnswered: Bool { answered.load(ordering: .relaxed) }

    /// Gives up a backend that keeps its control thread waiting.
    func abandon() {
        Self.log(.warning, "the back end of \(backend.title) does not answer and is given up")
        backend.frontend.abandon()
    }
}
