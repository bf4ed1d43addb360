package import Core
internal import Synchronization

// How the front end finds a back end, again and again, and what it asks of one.
extension Frontend {
    /// Finds the first back end, for which it may wait a while. Afterwards the device's properties
    /// are known.
    /// - Throws: why there is none, in words for the user.
    package func connect(timeoutMilliseconds: UInt64 = 5000) throws(FrontendError) {
        let start = Clock.monotonic()
        let deadline = start &+ timeoutMilliseconds &* 1_000_000
        waitWarning = start &+ Self.quietNanoseconds
        defer { waitWarning = nil }
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
            case .supervised: throw FrontendError("there is no back end yet")
            }
            guard Clock.monotonic() < deadline else { throw FrontendError(failure) }
            warnOfWait("\(failure); it is waited for")
            Clock.sleep(milliseconds: 10)
        }
    }

    /// Says once why the first back end keeps us waiting.
    private func warnOfWait(_ reason: @autoclosure () -> String) {
        guard let time = waitWarning, Clock.monotonic() >= time else { return }
        waitWarning = nil
        Self.log(.warning, reason())
    }

    /// A back end may take a connection while it is busy with another one.
    private static func silence(_ path: String) -> String {
        "the back end at \(path) takes the connection, but does not answer; does it serve another"
            + " machine?"
    }

    /// Goes on with the back end at the other end of `socket`, also if there is still another one.
    /// - Throws: why that back end cannot be used, in words for the user. The device then stalls
    ///   until the next attempt.
    package func attach(_ socket: UnixSocket) throws(FrontendError) {
        stopWaiting()
        if link != nil { drop("another back end takes over") }
        let link = FrontendLink(socket, on: loop, options: options)
        if let waitWarning, case .connect(let path) = options.role {
            link.onSlowReply = (
                waitWarning, { [unowned self] in warnOfWait(Self.silence(path)) }
            )
        }
        do {
            try hold(socket)
            try introduce(link)
            try equip(link)
        } catch {
            disconnect()
            if let error = error as? FrontendError { throw error }
            if case .broken(.timedOut) = error as? LinkError, link.offered == 0,
                case .connect(let path) = options.role
            {
                throw FrontendError(Self.silence(path))
            }
            throw FrontendError("the back end cannot be used: \(error)")
        }
        adopt(link)
        state = .connected
        lastComplaint = nil
        onStateChange?(state)
    }

    /// The back end has all that it needs.
    func adopt(_ link: FrontendLink) {
        self.link = link
        link.onBroken = { [unowned self] in lost("\($0)") }
        link.becomeIdle()
        retryDelay = Self.shortestRetry
    }

    /// Ends the connection for good.
    package func close() {
        stopWaiting()
        configTimer = nil
        disconnect()
        queues = queues.map { _ in nil }
    }

    /// Ends the connection and all waiting for the back end, now and later; from any thread. The
    /// device stalls for good.
    package func abandon() {
        lifeline.withLock { lifeline in
            lifeline.isCut = true
            lifeline.socket?.shutDown()
        }
    }

    /// Learns of a back end whether it can be the device's.
    func introduce(_ link: FrontendLink) throws {
        try negotiate(link)
        link.onConfigChange = { [unowned self] in configIsStale() }
        link.onQueueMessage = { [unowned self] request, index in
            guard queues.indices.contains(index), let queue = queues[index] else { return }
            request == .vringCall ? queue.setup.call?.signalIfRoom() : queue.error.signal()
        }
        try checkCompatible(link)
        try makeWindow(link)
    }

    /// Gives a back end all that the driver has set up.
    func equip(_ link: FrontendLink) throws {
        try prepare(link)
        try begin(link)
    }

    /// Gives a back end what it has to know before its queues begin.
    /// - Parameter state: what another one has passed on.
    func prepare(_ link: FrontendLink, state: [UInt8]? = nil) throws {
        if !isEstablished {
            features = usableFeatures(link)
            queueCount = link.queueCount
            queues = Array(repeating: nil, count: queueCount)
            isEstablished = true
        }
        try readWholeConfig(link)
        guard accepted != nil else { return }
        try sendFeatures(link)
        if link.has(.config), !configWrites.isEmpty {
            for access in configWrites { try rewriteConfig(link, access) }
            try readWholeConfig(link)
        }
        if let state { try link.loadState(state) }
    }

    /// Has a back end begin to work.
    func begin(_ link: FrontendLink) throws {
        guard accepted != nil else { return }
        if let logTarget { try sendLog(link, logTarget) }
        try sendQueues(link)
    }

    /// Starts all queues that the driver has started, from what is known of how far they got.
    func sendQueues(_ link: FrontendLink) throws(LinkError) {
        for index in queues.indices where queues[index] != nil {
            let state = recoveredState(index)
            queues[index]?.setup.state = state
            try sendQueue(link, index)
            // Somebody may have heard the last kick, or used a buffer, and died before acting on
            // it.
            queues[index]?.setup.kick?.signalIfRoom()
            queues[index]?.setup.call?.signalIfRoom()
        }
        try sendDriverOK(link)
    }

    /// What another back end has accepted, this one may refuse: the driver can live with that.
    private func rewriteConfig(
        _ link: FrontendLink, _ access: ConfigAccess
    ) throws(LinkError) {
        do {
            try link.command(.setConfig, .config(access))
        } catch {
            guard case .refused = error else { throw error }
            // Back ends may come and go without end.
            Self.log.guest(
                "\(error), so \(access.contents.count) bytes that the driver has written at offset"
                    + " \(access.offset) of the configuration space are lost")
        }
    }

    private func checkCompatible(_ link: FrontendLink) throws(FrontendError) {
        guard link.offered & VirtioFeature.version1 != 0 else {
            throw FrontendError(
                "the back end only speaks legacy virtio (VIRTIO_F_VERSION_1 is missing)")
        }
        guard link.queueCount > 0 else { throw FrontendError("the back end has no queues") }
        if let wanted = options.queueCount, link.queueCount < wanted {
            throw FrontendError(
                "the back end has \(link.queueCount) queues, but \(wanted) are wanted")
        }
        guard isEstablished else { return }
        guard link.queueCount >= queueCount else {
            throw FrontendError(
                "the new back end has \(link.queueCount) queues, the old one had \(queueCount)")
        }
        let missing = (accepted ?? features) & ~usableFeatures(link)
        guard missing == 0 else {
            throw FrontendError(
                "the new back end lacks the features 0x\(String(missing, radix: 16)), which are in "
                    + "use")
        }
    }

    /// What can be offered to a driver.
    private func usableFeatures(_ link: FrontendLink) -> UInt64 {
        var features = link.offered & ~VhostFeature.all & ~VirtioFeature.accessPlatform
        // Where a packed ring stands is known only from the memory for what is in flight.
        if !link.has(.inflight) { features &= ~VirtioFeature.packedRing }
        if movesFramesOnly(link) { features &= ~Self.interfaceFeatures }
        return features
    }

    // MARK: Losing the back end

    /// The connection has come to its end; another one is waited for.
    func lost(_ reason: String) {
        guard link != nil || state == .connected else { return }
        drop(reason)
        waitForBackend()
    }

    /// Lets `abandon` reach the connection.
    func hold(_ socket: UnixSocket) throws(FrontendError) {
        let isAbandoned = lifeline.withLock { lifeline in
            lifeline.socket = socket
            return lifeline.isCut
        }
        if isAbandoned { throw FrontendError("the device has been given up") }
    }

    func disconnect() {
        link = nil
        for index in queues.indices { queues[index]?.kickWatch = nil }
        lifeline.withLock { $0.socket = nil }
    }

    private func drop(_ reason: String) {
        disconnect()
        configTimer = nil
        Self.log(.warning, "\(options.backendName) is lost: \(reason)")
        state = .disconnected(reason: reason)
        onStateChange?(state)
    }

    private func stopWaiting() { retryTimer = nil }

    private func waitForBackend() {
        switch options.role {
        case .supervised: break
        case .connect(let path):
            retryTimer = loop.after(milliseconds: retryDelay) { [unowned self] in retry(path) }
            retryDelay = min(retryDelay * 2, Self.longestRetry)
        }
    }

    private func retry(_ path: String) {
        do {
            let socket = try UnixSocket(connectingTo: path)
            try attach(socket)
            Self.log(.warning, "\(options.backendName) is back")
        } catch {
            if let error = error as? FrontendError { complain(error.description) }
            waitForBackend()
        }
    }

    /// Says why an attempt has failed, once for as long as nothing changes.
    private func complain(_ reason: String) {
        if reason == lastComplaint { return }
        lastComplaint = reason
        Self.log.guest("\(options.backendName) is still waited for: \(reason)")
    }
}
