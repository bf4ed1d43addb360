package import Core

/// A virtio device whose work is done by a back end in another process. To the transport it is a
/// device like any other; what it is told, it tells the back end.
///
/// A back end that goes away, breaks the rules or does not answer stalls the device, never the
/// machine. What the driver has set up is kept here, and another back end is given it as a whole:
/// features, memory, what is in flight, queues. Kicks that nobody heard are given again.
///
/// Everything but `abandon` and `connections`, and every callback, happens on the loop's thread.
package final class Frontend: VirtioDevice {
    package enum State: Equatable {
        case connected
        /// The device stalls until there is a back end again.
        case disconnected(reason: String)
    }

    /// A queue that the driver has started.
    struct RunningQueue {
        var setup: QueueSetup
        /// Signalled by a back end that cannot go on with the queue.
        let error: EventFD
        let errorWatch: EventRegistration
        /// Where kicks are messages.
        var kickWatch: EventRegistration?
    }

    /// Where a back end notes what is in flight; it outlives the back end.
    struct KeptInflight {
        let description: InflightDescription
        let fd: SharedFD
    }

    /// Where dirty pages are recorded.
    struct LogTarget {
        let fd: SharedFD
        let size: UInt64
    }

    struct Lifeline {
        var isCut = false
        var socket: UnixSocket?
    }

    static let log = Log("vhost-user")
    static let shortestRetry: UInt32 = 10
    static let longestRetry: UInt32 = 1000
    /// How long the first back end may take before it is mentioned.
    static let quietNanoseconds: UInt64 = 500_000_000
    /// Regions' and rings' user addresses are guest addresses plus this, which is no address of
    /// ours.
    static let userAddressBase: UInt64 = 1 << 52

    let options: FrontendOptions
    let loop: EventLoop
    var link: FrontendLink?
    var retryTimer: EventRegistration?
    var retryDelay = Frontend.shortestRetry
    /// When to mention that the first back end is waited for.
    var waitWarning: UInt64?
    var configTimer: EventRegistration?
    /// The connection that another thread may cut.
    let lifeline = Lock(Lifeline())

    // What the first back end was like; later ones must match it.
    package internal(set) var features: UInt64 = 0
    package internal(set) var queueCount = 0
    var isEstablished = false

    // What the driver has set up.
    var config: [UInt8]
    /// The size of the configuration space of a device of which it is not known.
    var foundConfigSize: Int?
    var accepted: UInt64?
    /// What the driver has written to the configuration space, in order.
    var configWrites: [ConfigAccess] = []
    var queues: [RunningQueue?] = []
    var inflight: KeptInflight?
    var logTarget: LogTarget?

    /// Memory that the device shares with its driver; `nil` if it has none.
    package internal(set) var window: DeviceWindow?
    var windowSizes: [UInt64] = []
    var lossWatch: EventRegistration?
    /// Called when something else is shown in that memory.
    package var onWindowChange: (() -> Void)?

    package var deviceID: VirtioDeviceID { options.deviceID }
    package internal(set) var state = State.disconnected(reason: "not connected yet") {
        didSet { record.withLock { [state] in $0.note(state, at: Clock.monotonic()) } }
    }
    private let record = Lock(ConnectionRecord())
    /// May be asked for from any thread.
    package var connections: ConnectionRecord { record.withLock { $0 } }
    /// Why the last attempt has failed to find a back end, as the user has been told.
    var lastComplaint: String?

    /// Called when a back end has been lost or found, possibly in the midst of a verb: what is to
    /// be done about it (`attach`) must wait until the loop is back.
    package var onStateChange: ((State) -> Void)?
    /// Called when the device's configuration space has changed.
    package var onConfigChange: (() -> Void)?
    /// Called once, when the driver has started a queue for the first time.
    package var onFirstStart: (() -> Void)?
    /// Called when the back end says that it cannot go on with a queue.
    package var onQueueError: ((Int) -> Void)?

    package init(_ options: FrontendOptions, on loop: EventLoop) {
        self.options = options
        self.loop = loop
        config = options.ownConfig?(0) ?? []
    }

    // MARK: Requests

    /// Runs `body` if there is a back end. A connection that breaks meanwhile stalls the device;
    /// a back end that refuses is an error.
    func withLink(_ body: (FrontendLink) throws(LinkError) -> Void) throws(VirtioDeviceError) {
        guard let link else { return }
        do {
            try body(link)
        } catch {
            switch error {
            case .broken(let error): lost("\(error)")
            case .refused: throw VirtioDeviceError("\(error)")
            }
        }
    }

    // MARK: Configuration space

    package func readConfig(offset: Int, count: Int) -> [UInt8] {
        guard offset >= 0, count > 0, offset < config.count else { return [] }
        return Array(config[offset..<min(config.count, offset + min(count, config.count))])
    }

    package func writeConfig(offset: Int, _ bytes: [UInt8]) {
        guard offset >= 0, offset < config.count, !bytes.isEmpty,
            bytes.count <= config.count - offset, bytes.count <= ConfigAccess.maximumSize,
            let place = UInt32(exactly: offset)
        else { return }
        let access = ConfigAccess(offset: place, contents: bytes)
        configWrites.removeAll { $0.offset == access.offset && $0.contents.count == bytes.count }
        configWrites.append(access)
        do {
            try withLink { link throws(LinkError) in
                guard link.has(.config) else { return }
                try link.command(.setConfig, .config(access))
                // What the back end made of it.
                try readWholeConfig(link)
            }
        } catch {
            // Another back end would refuse it as well.
            configWrites.removeAll { $0 == access }
            Self.log.guest("\(error)")
        }
    }

    /// The back end's configuration space has changed; it is read again as soon as nothing else is
    /// being asked.
    func configIsStale() {
        configTimer = loop.after(milliseconds: 0) { [unowned self] in
            do {
                try withLink { link throws(LinkError) in try readWholeConfig(link) }
            } catch {
                Self.log.guest("\(error)")
            }
            onConfigChange?()
        }
    }

    // MARK: The device's verbs

    package func maximumQueueSize(_ queue: Int) -> UInt16 { options.maximumQueueSize }

    package func setFeatures(_ features: UInt64) throws(VirtioDeviceError) {
        guard features & ~self.features == 0 else {
            throw VirtioDeviceError("features were accepted that are not on offer")
        }
        accepted = features
        try withLink { link throws(LinkError) in try sendFeatures(link) }
    }

    package func startQueue(_ queue: Int, _ setup: QueueSetup) throws(VirtioDeviceError) {
        guard queues.indices.contains(queue), queues[queue] == nil else {
            throw VirtioDeviceError("there is no queue \(queue) to start")
        }
        try checkLayout(setup)
        let error: EventFD
        do {
            error = try EventFD()
        } catch {
            throw VirtioDeviceError("\(error)")
        }
        let watch = loop.watch(error.rawValue, for: .readable) { [unowned self] _ in
            error.drain()
            Self.log.guest("the back end cannot go on with queue \(queue)")
            onQueueError?(queue)
        }
        queues[queue] = RunningQueue(setup: setup, error: error, errorWatch: watch)
        if setup.state == freshState { forgetInflight(queue) }
        do {
            try withLink { link throws(LinkError) in
                try sendQueue(link, queue)
                try sendDriverOK(link)
                // A queue that goes on may have been kicked before.
                if setup.state != freshState { setup.kick?.signalIfRoom() }
            }
        } catch {
            queues[queue] = nil
            throw error
        }
        onFirstStart?()
        onFirstStart = nil
    }

    package func stopQueue(_ queue: Int) -> QueueState {
        guard queues.indices.contains(queue), queues[queue] != nil else { return freshState }
        var state = recoveredState(queue)
        do {
            try withLink { link throws(LinkError) in state = try fetchState(link, queue) }
        } catch {
            Self.log(.warning, "\(error)")
        }
        queues[queue] = nil
        return state
    }

    package func reset() {
        for queue in queues.indices where queues[queue] != nil { _ = stopQueue(queue) }
        let hadDriver = accepted != nil
        accepted = nil
        configWrites = []
        // The next driver starts with nothing in flight.
        inflight = nil
        link?.hasInflight = false
        guard hadDriver else { return }
        defer { clearWindow() }
        do {
            try withLink { link throws(LinkError) in
                if link.has(.resetDevice) { try link.command(.resetDevice) }
                if link.has(.status) { try link.command(.setStatus, .u64(0)) }
                try readWholeConfig(link)
            }
        } catch {
            Self.log(.warning, "\(error)")
        }
    }

    var isPacked: Bool { (accepted ?? 0) & VirtioFeature.packedRing != 0 }

    var freshState: QueueState { .fresh(features: accepted ?? 0) }
}
