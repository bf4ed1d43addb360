internal import Core

/// One front end's connection. Messages are handled as they come; what they change in the queues
/// takes effect at the end of each.
final class BackendSession {
    /// What this back end implements.
    static let implemented: ProtocolFeatures = [
        .multiQueue, .logSharedMemory, .replyAck, .backendRequests, .config, .inflight,
        .resetDevice, .memorySlots, .status, .deviceState, .inBandNotifications,
        .rarp, .mtu, .baseWithInflight, .skipDrain, .pageFault, .sharedMemory, .backendDescriptors,
    ]

    let device: any VirtioDevice
    let loop: EventLoop
    let options: BackendServer.Options
    private let connection: Connection
    private var watch: EventRegistration?
    private let onEnd: () -> Void
    /// Called when a queue has been started.
    var onQueueStart: (() -> Void)?
    private(set) var isClosed = false

    let offeredProtocol: ProtocolFeatures
    var acknowledgedProtocol: ProtocolFeatures = []
    /// What the front end has set, with the bits of vhost; `nil` before.
    var features: UInt64?
    var status: UInt64 = 0
    let queues: [BackendQueue]
    var memoryTable: MemoryTable
    /// Signalled when the front end takes away memory that it has shared.
    let lossEvent: EventFD
    private var lossWatch: EventRegistration?
    var inflight: InflightArea?
    /// What addresses of rings and buffers lead through.
    var iotlb: IOTLB?
    var dirtyLog: DirtyLog?
    /// To be told of changes of the log.
    var logEvent: EventFD?
    var transfer: StateTransfer?
    /// A migration in which the front end brings memory while the device works.
    var postcopy: Postcopy?
    private var channel: BackendChannel?
    /// Runs while a message has come in part.
    private var messageTimer: EventRegistration?

    /// - Parameter onEnd: called once, when the connection has ended and everything is released.
    init(
        _ device: any VirtioDevice, _ socket: UnixSocket, on loop: EventLoop,
        options: BackendServer.Options, onEnd: @escaping () -> Void
    ) throws(SystemError) {
        lossEvent = try EventFD()
        memoryTable = MemoryTable(onLoss: lossEvent)
        self.device = device
        self.loop = loop
        self.onEnd = onEnd
        self.options = options
        connection = Connection(socket, nameOf: Connection.frontendNames)
        var offered = Self.implemented.subtracting(options.hidden)
        if !device.canSaveState { offered.remove(.deviceState) }
        if device.readConfig(offset: 0, count: 1).isEmpty { offered.remove(.config) }
        if device.network == nil { offered.subtract([.rarp, .mtu]) }
        if options.faultDevice == nil { offered.remove(.pageFault) }
        if device.sharedRegions.isEmpty {
            offered.subtract([.sharedMemory, .backendDescriptors])
        }
        offeredProtocol = offered
        // The message format has eight bits for the number of a queue.
        queues = (0..<min(device.queueCount, 256)).map { BackendQueue(index: $0) }
        watch = loop.watch(socket.fd.rawValue, for: .readable) { [unowned self] _ in receive() }
        lossWatch = loop.watch(lossEvent.rawValue, for: .readable) { [unowned self] _ in
            loseMemory()
        }
    }

    var offeredFeatures: UInt64 {
        let translation = device.servesOnThreads ? VirtioFeature.accessPlatform : 0
        return device.features | VhostFeature.all | translation
    }

    var frontendSocket: SharedFD { connection.socket.fd }

    var isPacked: Bool { (features ?? 0) & VirtioFeature.packedRing != 0 }

    // MARK: Connection

    private func receive() {
        do {
            // One at a time: a front end that sends without end must not keep the loop from others.
            if let message = try connection.receive() { try handle(message) }
        } catch {
            return end(error)
        }
        limitWait()
    }

    /// A front end that stops in the midst of a message keeps the next one from being served.
    private func limitWait() {
        guard !isClosed, let name = connection.unfinished else {
            messageTimer = nil
            return
        }
        if messageTimer != nil { return }
        messageTimer = loop.after(milliseconds: options.messageTimeoutMilliseconds) {
            [unowned self] in
            end(
                .protocolError(
                    ProtocolError(name, "size", "the rest of the message does not come")))
        }
    }

    /// - Throws: what ends the connection.
    private func handle(_ message: Message) throws(ConnectionError) {
        let header = message.header
        let wantsAck = header.needsReply && acknowledgedProtocol.contains(.replyAck)
        guard let request = FrontendRequest(rawValue: header.request) else {
            let error = ProtocolError(
                Connection.frontendNames(header.request), "request", "it is not known")
            return try refuse(error, request: header.request, wantsAck: wantsAck)
        }
        let isAcknowledgement = postcopy?.isAcknowledgement(request, message) ?? false
        let rule = isAcknowledgement ? Postcopy.acknowledgement : request.rule
        let payload: Payload
        do {
            payload = try message.payload(of: rule)
        } catch {
            throw .protocolError(error)
        }
        do {
            try checkLegal(request)
            let reply = try perform(request, payload, message.fds)
            if let reply {
                try answer(header.request, reply.payload, fds: reply.fds)
            } else if wantsAck {
                try answer(header.request, .u64(0))
            }
        } catch let error as ProtocolError {
            try refuse(error, request: header.request, wantsAck: wantsAck && rule.reply == nil)
        } catch let error as ConnectionError {
            throw error
        } catch {
            throw .protocolError(ProtocolError(rule.name, "request", "\(error)"))
        }
    }

    /// A request that cannot be met is answered so if the front end waits for an answer; otherwise
    /// it can only learn of it by losing the connection, if it has to.
    private func refuse(
        _ error: ProtocolError, request: UInt32, wantsAck: Bool
    ) throws(ConnectionError) {
        guard wantsAck || error.isHarmless else { throw .protocolError(error) }
        BackendServer.log.guest("\(error)")
        if wantsAck { try answer(request, .u64(1)) }
    }

    private func answer(
        _ request: UInt32, _ payload: Payload, fds: [SharedFD] = []
    ) throws(ConnectionError) {
        let message = Message(
            request: request, flags: Header.version | Header.replyFlag, payload: payload.bytes,
            fds: fds)
        try connection.send(message, timeoutMilliseconds: options.answerTimeoutMilliseconds)
    }

    private func checkLegal(_ request: FrontendRequest) throws(ProtocolError) {
        // Some front ends ask for the number of queues before they acknowledge anything.
        let negotiated = request == .getQueueNum ? offeredProtocol : acknowledgedProtocol
        guard negotiated.isSuperset(of: request.rule.needs),
            (features ?? 0) & request.rule.needsFeatures == request.rule.needsFeatures
        else {
            throw ProtocolError(
                request.rule.name, "request", "the feature it needs was not negotiated")
        }
    }

    /// Ends the connection if memory is lost that is still in use. Until this runs, the queues saw
    /// zeroes there.
    private func loseMemory() {
        lossEvent.drain()
        let error: ProtocolError
        if let region = memoryTable.lostRegion {
            error = ProtocolError(
                "SET_MEM_TABLE", "region size",
                "the front end's memory file is shorter than its region of \(region.size) bytes at "
                    + "guest address \(GuestAddress(region.guestAddress)), or there is no room for "
                    + "its pages")
        } else if inflight?.isLost == true {
            error = ProtocolError("SET_INFLIGHT_FD", "mmap size", "the file has become shorter")
        } else if dirtyLog?.isLost == true {
            error = ProtocolError("SET_LOG_BASE", "log size", "the file has become shorter")
        } else {
            return
        }
        end(.protocolError(error))
    }

    private func end(_ error: ConnectionError) {
        guard !isClosed else { return }
        switch error {
        case .closed: BackendServer.log(.info, "the front end has gone")
        case .protocolError(let error):
            BackendServer.log.guest("\(error); the connection is closed")
        default: BackendServer.log(.warning, "\(error); the connection is closed")
        }
        close()
        onEnd()
    }

    /// Stops the device and releases everything that belongs to the connection.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        watch = nil
        messageTimer = nil
        lossWatch = nil
        transfer = nil
        // First of all: queues may be waiting for pages, or for the front end's answers.
        endPostcopy()
        closeChannel()
        connection.socket.shutDown()
        for queue in queues {
            stopDevice(queue)
            queue.stop()
        }
        device.reset()
        memoryTable = MemoryTable(onLoss: lossEvent)
        inflight = nil
        dirtyLog = nil
        logEvent = nil
    }

    // MARK: Back-end channel

    func setChannel(_ fd: SharedFD) throws(ProtocolError) {
        do {
            let new = BackendChannel(
                try UnixSocket(adopting: fd), patience: min(1000, options.answerTimeoutMilliseconds)
            )
            closeChannel()
            channel = new
        } catch {
            throw ProtocolError("SET_BACKEND_REQ_FD", "descriptors", "\(error)")
        }
        if acknowledgedProtocol.isSuperset(of: [.sharedMemory, .replyAck]) {
            device.useSharedMemory(channel)
        }
    }

    private func closeChannel() {
        guard let channel else { return }
        channel.close()
        device.useSharedMemory(nil)
        self.channel = nil
    }

    func configurationChanged() {
        guard acknowledgedProtocol.contains(.config) else { return }
        tell(.configChangeMsg)
    }

    /// Tells the front end something that it need not answer.
    func tell(_ request: BackendRequest, _ payload: Payload = .none) {
        guard let channel else { return }
        do {
            try channel.tell(request, payload)
        } catch {
            BackendServer.log(.warning, "the front end's channel is broken: \(error)")
            closeChannel()
        }
    }
}
