internal import CLinux
internal import Core

/// Two queues, one in each direction, that a thread serves.
protocol QueuePair: AnyObject {
    func start(_ direction: Direction, _ queue: Virtqueue) throws(VirtioDeviceError)
    /// - Returns: how far the queue has got; `nil` if it was not started.
    func stop(_ direction: Direction) -> QueueState?
    /// Sends a frame of our own before those of the driver that are still to come.
    func send(_ announcement: Announcement) throws(VirtioDeviceError)
    /// Whether frames are to come to this pair.
    func attach(_ isAttached: Bool)
    /// Which frames the driver wants; `nil`: all.
    func filter(_ filter: ReceiveFilter?)
    /// The rest of a frame that has gone in part, for who goes on with the link. No queue runs.
    var unsent: [UInt8] { get set }
}

/// Where the frames of a queue go.
enum Direction: Int {
    /// To the driver.
    case receive = 0
    case transmit = 1
}

/// A pair with its up-link. The verbs are the control thread's; they stop the thread for a moment.
final class LinkedPair: QueuePair {
    private let worker: NetworkWorker
    private let name: String
    private let stopSignal: EventFD
    private let folder: SharedFD?
    private let filter: SeccompFilter?
    private var thread: Thread?

    /// - Parameters:
    ///   - folder: where the thread looks for sockets.
    ///   - filter: what it restricts itself with.
    init(
        _ link: any UpLink, index: Int, folder: SharedFD?, filter: SeccompFilter?,
        limits: TrafficLimits, polling: IdlePolling,
        onLinkChange: @escaping @Sendable (Bool) -> Void
    ) throws(SystemError) {
        stopSignal = try EventFD()
        worker = NetworkWorker(
            link, stop: stopSignal, limits: limits, polling: polling, onLinkChange: onLinkChange)
        name = "pair \(index)"
        self.folder = folder
        self.filter = filter
    }

    deinit { halt() }

    func start(_ direction: Direction, _ queue: Virtqueue) throws(VirtioDeviceError) {
        halt()
        let features = queue.setup.features
        worker.link.use(features: features)
        switch direction {
        case .receive: worker.receiver = ReceiveQueue(queue, for: worker.link)
        case .transmit:
            worker.transmitter = TransmitQueue(
                queue, for: worker.link, headerSize: FrameHeader.size(features: features))
        }
        try run()
    }

    func stop(_ direction: Direction) -> QueueState? {
        halt()
        let queue: Virtqueue?
        switch direction {
        case .receive:
            queue = worker.receiver?.queue
            worker.receiver = nil
        case .transmit:
            queue = worker.transmitter?.queue
            worker.transmitter = nil
        }
        goOn()
        return queue?.state
    }

    func filter(_ filter: ReceiveFilter?) {
        guard worker.filter != filter else { return }
        halt()
        worker.filter = filter
        goOn()
    }

    private func goOn() {
        do {
            try run()
        } catch {
            networkLog(.error, "\(error)")
        }
    }

    func send(_ announcement: Announcement) throws(VirtioDeviceError) {
        halt()
        let driver = worker.transmitter
        worker.transmitter = TransmitQueue(
            announcement.queue, for: worker.link, headerSize: announcement.headerSize)
        do {
            try run()
            // The link may be busy; a frame that is lost does not matter.
            for _ in 0..<100 where !announcement.isSent { Clock.sleep(milliseconds: 1) }
            halt()
        } catch {
            networkLog(.error, "the guest's place is not announced: \(error)")
        }
        worker.transmitter = driver
        try run()
    }

    var unsent: [UInt8] {
        get { worker.link.unsent }
        set { worker.link.unsent = newValue }
    }

    func attach(_ isAttached: Bool) { worker.link.attach(isAttached) }

    private func halt() {
        guard let thread else { return }
        stopSignal.signal()
        thread.join()
        stopSignal.drain()
        self.thread = nil
    }

    /// Goes on with the queues that there are.
    private func run() throws(VirtioDeviceError) {
        guard worker.receiver != nil || worker.transmitter != nil else { return }
        // SAFETY: the thread has the worker to itself until it has ended.
        nonisolated(unsafe) let serve = { [worker] in worker.run() }
        do throws(SystemError) {
            thread = try Thread(name: name) { [folder, filter] in
                enterFolder(folder)
                filter?.loadOrEnd()
                unsafe serve()
            }
        } catch {
            throw VirtioDeviceError("a pair of queues cannot be served: \(error)")
        }
    }
}

/// The calling thread looks for sockets there from now on.
func enterFolder(_ folder: SharedFD?) {
    guard let folder else { return }
    let code = clinux_enter_folder(folder.rawValue)
    if code != 0 {
        let reason = SystemError("fchdir", errno: -code).reason
        networkLog(.error, "the folder of the up-link's socket cannot be used: \(reason)")
    }
}
