package import Core

/// A virtio device whose work is done by a back end in another process. To the transport it is a
/// device like any other; what it is told, it tells the back end.
///
/// A back end that goes away, breaks the rules or does not answer stalls the device, never the
/// machine. What the driver has set up is kept here, and another back end is given it as a whole:
/// features, memory, what is in flight, queues. Kicks that nobody heard are given again.
///
/// Everything, and every callback, happens on the loop's thread.
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

    static let log = Log("vhost-user")
    private static let shortestRetry: UInt32 = 10
    private static let longestRetry: UInt32 = 1000
    /// Regions' and rings' user addresses are guest addresses plus this, which is no address of
    /// ours.
    static let userAddressBase: UInt64 = 1 << 52

    let options: FrontendOptions
    let loop: EventLoop
    var link: FrontendLink?
    private var retryTimer: EventRegistration?
    private var retryDelay = Frontend.shortestRetry
    private var acceptWatch: EventRegistration?
    private var configTimer: EventRegistration?

    // What the first back end was like; later ones must match it.
    package private(set) var features: UInt64 = 0
    package private(set) var queueCount = 0
    private var isEstablished = false

    // What the driver has set up.
    var config: [UInt8]
    var accepted: UInt64?
    /// What the driver has written to the configuration space, in order.
    private var configWrites: [ConfigAccess] = []
    var queues: [RunningQueue?] = []
    var inflight: KeptInflight?
    var logTarget: LogTarget?

    package var deviceID: VirtioDeviceID { options.deviceID }
    package private(set) var state = State.disconnected(reason: "not connected yet")

    /// Called when a back end has been lost or found.
    package var onStateChange: ((State) -> Void)?
    /// Called when the device's configuration space has changed.
    package var onConfigChange: (() -> Void)?
    /// Called when the back end says that it cannot go on with a queue.
    package var onQueueError: ((Int) -> Void)?

    package init(_ options: FrontendOptions, on loop: EventLoop) {
        self.options = options
        self.loop = loop
        config = options.defaultConfig
    }

    // MARK: Connecting

    /// Finds the first back end, for which it may wait a while. Afterwards the device's properties
    /// are known.
    /// - Throws: why there is none, in words for the user.
    package func connect(timeoutMilliseconds: UInt64 = 5000) throws(FrontendError) {
        let deadline = Clock.monotonic() &+ timeoutMilliseconds &* 1_000_000
        while true {
            let failure: String
            switch options.role {
            case .connect(let path):
                do {
                    return try attach(try UnixSocket(connectingTo: path))
                } catch let error as SystemError {
                    failure = "no back end answers at \(path): \(error.reason)"
                } catch let error as FrontendError {
                    throw error
                } catch {
                    failure = "\(error)"
                }
            case .listen(let listener):
                do {
                    if let socket = try listener.accept() { return try attach(socket) }
                    failure = "no back end has connected"
                } catch let error as FrontendError {
                    throw error
                } catch {
                    failure = "\(error)"
                }
            case .supervised: throw FrontendError("there is no back end yet")
            }
            guard Clock.monotonic() < deadline else { throw FrontendError(failure) }
            Clock.sleep(milliseconds: 10)
        }
    }

    /// Goes on with the back end at the other end of `socket`, also if there is still another one.
    /// - Throws: why that back end cannot be used, in words for the user. The device then stalls until
    ///   the next attempt.
    package func attach(_ socket: UnixSocket) throws(FrontendError) {
        stopWaiting()
        if link != nil { drop("another back end takes over") }
        let link = FrontendLink(socket, on: loop, options: options)
        do {
            try establish(link)
        } catch let error as LinkError {
            throw FrontendError("the back end cannot be used: \(error)")
        } catch let error as FrontendError {
            throw error
        } catch {
            throw FrontendError("\(error)")
        }
        self.link = link
        link.onBroken = { [unowned self] in lost($0) }
        link.becomeIdle()
        retryDelay = Self.shortestRetry
        state = .connected
        onStateChange?(state)
    }

    /// Ends the connection for good.
    package func close() {
        stopWaiting()
        configTimer = nil
        link = nil
        queues = queues.map { _ in nil }
    }

    /// What a link needs from its first message on.
    private func establish(_ link: FrontendLink) throws {
        try negotiate(link)
        link.onConfigChange = { [unowned self] in configIsStale() }
        try checkCompatible(link)
        if !isEstablished {
            features = Self.usableFeatures(link)
            queueCount = link.queueCount
            queues = Array(repeating: nil, count: queueCount)
            isEstablished = true
        }
        try readWholeConfig(link)
        guard accepted != nil else { return }
        try sendFeatures(link)
        if link.has(.config), !configWrites.isEmpty {
            for access in configWrites { try link.command(.setConfig, .config(access)) }
            try readWholeConfig(link)
        }
        if let logTarget { try sendLog(link, logTarget) }
        for index in queues.indices where queues[index] != nil {
            let state = recoveredState(index)
            queues[index]?.setup.state = state
            try sendQueue(link, index)
            // Somebody may have heard the last kick, or used a buffer, and died before acting on it.
            queues[index]?.setup.kick?.signal()
            queues[index]?.setup.call?.signal()
        }
        try sendDriverOK(link)
    }

    private func checkCompatible(_ link: FrontendLink) throws(FrontendError) {
        guard link.offered & VirtioFeature.version1 != 0 else {
            throw FrontendError(
                "the back end only speaks legacy virtio (VIRTIO_F_VERSION_1 is missing)")
        }
        if let wanted = options.queueCount, link.queueCount < wanted {
            throw FrontendError(
                "the back end has \(link.queueCount) queues, but \(wanted) are wanted")
        }
        guard isEstablished else { return }
        guard link.queueCount >= queueCount else {
            throw FrontendError(
                "the new back end has \(link.queueCount) queues, the old one had \(queueCount)")
        }
        let missing = (accepted ?? features) & ~Self.usableFeatures(link)
        guard missing == 0 else {
            throw FrontendError(
                "the new back end lacks the features 0x\(String(missing, radix: 16)), which are in "
                    + "use")
        }
    }

    /// What can be offered to a driver.
    private static func usableFeatures(_ link: FrontendLink) -> UInt64 {
        var features =
            link.offered & ~VhostFeature.all & ~VirtioFeature.accessPlatform
            & ~VirtioFeature.notificationData
        // Where a packed ring stands is known only from the memory for what is in flight.
        if !link.has(.inflight) { features &= ~VirtioFeature.packedRing }
        return features
    }

    // MARK: Losing the back end

    /// The connection has come to its end; another one is waited for.
    func lost(_ error: ConnectionError) {
        guard link != nil else { return }
        drop("\(error)")
        waitForBackend()
    }

    private func drop(_ reason: String) {
        link = nil
        configTimer = nil
        Self.log(.warning, "the back end is lost: \(reason)")
        state = .disconnected(reason: reason)
        onStateChange?(state)
    }

    private func stopWaiting() {
        retryTimer = nil
        acceptWatch = nil
    }

    private func waitForBackend() {
        switch options.role {
        case .supervised: break
        case .connect(let path):
            retryTimer = loop.after(milliseconds: retryDelay) { [unowned self] in retry(path) }
            retryDelay = min(retryDelay * 2, Self.longestRetry)
        case .listen(let listener):
            acceptWatch = loop.watch(listener.fd.rawValue, for: .readable) { [unowned self] _ in
                accept(listener)
            }
        }
    }

    private func retry(_ path: String) {
        do {
            let socket = try UnixSocket(connectingTo: path)
            try attach(socket)
            Self.log(.warning, "the back end is back")
        } catch {
            if error is FrontendError { Self.log.guest("\(error)") }
            waitForBackend()
        }
    }

    private func accept(_ listener: UnixListener) {
        do {
            guard let socket = try listener.accept() else { return }
            try attach(socket)
            Self.log(.warning, "the back end is back")
        } catch {
            Self.log.guest("\(error)")
            acceptWatch = nil
            retryTimer = loop.after(milliseconds: Self.longestRetry) { [unowned self] in
                waitForBackend()
            }
        }
    }

    /// Runs `body` if there is a back end. A connection that breaks meanwhile stalls the device;
    /// a back end that refuses is an error.
    func withLink(_ body: (FrontendLink) throws(LinkError) -> Void) throws(VirtioDeviceError) {
        guard let link else { return }
        do {
            try body(link)
        } catch {
            switch error {
            case .broken(let reason): lost(reason)
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
            Self.log.guest("\(error)")
        }
    }

    /// The back end's configuration space has changed; it is read again as soon as nothing else is
    /// being asked.
    private func configIsStale() {
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
        do {
            try withLink { link throws(LinkError) in
                try sendQueue(link, queue)
                try sendDriverOK(link)
                // A queue that goes on may have been kicked before.
                if setup.state != freshState { setup.kick?.signal() }
            }
        } catch {
            queues[queue] = nil
            throw error
        }
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

    var freshState: QueueState { isPacked ? .freshPacked : .freshSplit }
}
