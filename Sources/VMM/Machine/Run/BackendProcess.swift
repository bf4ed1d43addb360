internal import Core
internal import Devices
internal import Glibc
internal import Synchronization
internal import VhostUser

/// The backend process of a device: started by the launcher, watched, and started again when
/// it ends. Meanwhile the device stalls; what was in flight is done again by the new process.
///
/// It belongs to the device's control thread. The processes end with the VMM's first thread.
final class BackendProcess {
    private static let log = Log("device")
    private static let shortestDelay: UInt32 = 10
    private static let longestDelay: UInt32 = 2000
    /// A process that lived this long was fine, whoever has ended it. One that dies of what the guest
    /// asks for does so at once.
    private static let calmNanoseconds: UInt64 = 100_000_000

    /// What messages call the device.
    private let title: String
    private let launcher: Launcher
    /// Which of the launcher's roles it is.
    private let role: Int
    private let loop: EventLoop
    private let usesTerminal: Bool
    let frontend: Frontend

    private var child: ChildProcess? {
        didSet { currentID.store(child?.processID ?? 0, ordering: .relaxed) }
    }
    private let currentID = Atomic<Int32>(0)
    /// The process that serves the device, for any thread; `nil` while there is none.
    var processID: Int32? {
        let id = currentID.load(ordering: .relaxed)
        return id == 0 ? nil : id
    }
    private var exitWatch: EventRegistration?
    /// A process whose place another one has taken.
    private var former: FormerProcess?
    private var restartTimer: EventRegistration?
    private var startTime: UInt64 = 0
    private var delay = BackendProcess.shortestDelay
    private var isEnding = false
    /// The launcher is lost: no process will follow.
    private var isAlone = false

    /// - Parameters:
    ///   - role: which of the launcher's roles it is.
    init(_ device: DeviceOptions, launcher: Launcher, role: Int, loop: EventLoop) {
        title = device.title
        self.launcher = launcher
        self.role = role
        self.loop = loop
        usesTerminal = device.usesTerminal
        var settings = FrontendOptions(.supervised, deviceID: device.id)
        settings.handshakeTimeoutMilliseconds = 3000
        settings.backendName = "the back end of \(device.title)"
        settings.sharesMemory = device.slot == nil
        // A driver is offered the power of two below.
        if case .child(let child) = device.source, let queueSize = child.queueSize, queueSize > 0,
            queueSize < settings.maximumQueueSize
        {
            settings.maximumQueueSize = 1 << UInt16(15 - queueSize.leadingZeroBitCount)
        }
        frontend = Frontend(settings, on: loop)
    }

    /// Starts the first process. A device that cannot be served is an error only now.
    func start() throws(BootError) {
        do {
            try launch()
        } catch {
            // A process that ended has said why.
            let status = awaitEnd(milliseconds: 1000)
            let reason = status.map { "its process \($0)" } ?? "\(error)"
            throw BootError(
                "the \(title) cannot be served: \(reason)", isReported: status == .exited(1))
        }
        frontend.onStateChange = { [weak self] state in self?.connectionChanged(state) }
    }

    /// Ends the process, after it has done what it was asked to.
    func end() {
        isEnding = true
        restartTimer = nil
        former = nil
        frontend.close()
        guard awaitEnd(milliseconds: 3000) == nil, let child else { return }
        Self.log(.warning, "the process of \(title) does not end and is killed")
        child.signal(SIGKILL)
    }

    /// Lets a new process take the place of the present one, without a gap that the guest would
    /// notice.
    func upgrade() throws(LaunchError) {
        guard let old = child, restartTimer == nil else {
            throw LaunchError("the process of \(title) is just being replaced")
        }
        let oldWatch = exitWatch
        let new: ChildProcess
        do {
            let (near, far) = try UnixSocket.pair()
            new = try launcher.launch(role, with: far.fd)
            do {
                try frontend.upgrade(to: near)
            } catch {
                new.signal(SIGKILL)
                former = FormerProcess(new, on: loop)
                throw error
            }
        } catch {
            throw LaunchError("\(error)")
        }
        oldWatch?.cancel()
        former = FormerProcess(old, on: loop)
        startTime = Clock.monotonic()
        child = new
        exitWatch = loop.watchExit(of: new) { [weak self] status in self?.ended("\(status)") }
    }

    /// A process that has a terminal is told of the size as by any terminal.
    func terminalChanged() {
        if usesTerminal { child?.signal(SIGWINCH) }
    }

    private func launch() throws(LaunchError) {
        startTime = Clock.monotonic()
        do {
            let (near, far) = try UnixSocket.pair()
            let child = try launcher.launch(role, with: far.fd)
            self.child = child
            exitWatch = loop.watchExit(of: child) { [weak self] status in self?.ended("\(status)") }
            try frontend.attach(near)
        } catch let error as Launcher.Failure {
            if case .launcherLost = error { isAlone = true }
            throw LaunchError("\(error)")
        } catch {
            throw LaunchError("\(error)")
        }
    }

    /// Waits for the process without serving anything else.
    private func awaitEnd(milliseconds: Int32) -> ChildStatus? {
        exitWatch = nil
        guard let status = child?.wait(milliseconds: milliseconds) else { return nil }
        child = nil
        return status
    }

    private func connectionChanged(_ state: Frontend.State) {
        // A process that we cannot talk to any more is of no use.
        if case .disconnected = state { child?.signal(SIGKILL) }
    }

    /// - Parameter end: what became of the process, for example `exited with status 1`.
    private func ended(_ end: String) {
        guard !isEnding else { return }
        child = nil
        if Clock.monotonic() &- startTime > Self.calmNanoseconds { delay = Self.shortestDelay }
        restartTimer = loop.after(milliseconds: delay) { [weak self] in self?.restart(after: end) }
        delay = min(delay * 2, Self.longestDelay)
    }

    private func restart(after end: String) {
        do {
            try launch()
            Self.log.guest("the process of \(title) \(end); it is started again")
        } catch {
            let reason = "the process of \(title) \(end)"
            if isAlone {
                return Self.log(
                    .error,
                    "\(reason) and cannot be started again, because \(error); the guest's requests"
                        + " to the device wait, so end the guest and start it again")
            }
            Self.log.guest("\(reason) and is not started again: \(error)")
            // If there is one, its end leads to the next attempt.
            if let child {
                child.signal(SIGKILL)
            } else {
                ended("could not be started (\(error))")
            }
        }
    }
}

/// A process that has nothing to do any more: it ends by itself, or is made to.
private final class FormerProcess {
    private static let patienceMilliseconds: UInt32 = 3000

    private let child: ChildProcess
    private var exitWatch: EventRegistration?
    private var timer: EventRegistration?

    init(_ child: ChildProcess, on loop: EventLoop) {
        self.child = child
        exitWatch = loop.watchExit(of: child) { [unowned self] _ in timer = nil }
        timer = loop.after(milliseconds: Self.patienceMilliseconds) { child.signal(SIGKILL) }
    }

    deinit {
        // One that has not been seen to end has no time left.
        guard timer != nil else { return }
        child.signal(SIGKILL)
        _ = child.wait(milliseconds: 1000)
    }
}

/// Why a process did not become a device's.
struct LaunchError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}
