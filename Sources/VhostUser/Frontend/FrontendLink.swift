internal import Core

/// Why a request was not done.
enum LinkError: Error, CustomStringConvertible {
    /// The connection is of no more use.
    case broken(ConnectionError)
    /// The back end said no.
    case refused(String)

    var description: String {
        switch self {
        case .broken(let error): "\(error)"
        case .refused(let request): "the back end refused \(request)"
        }
    }
}

/// One connection to a back end, from its first message to its end. Requests wait for their reply,
/// but never for longer than the limits say; meanwhile the back end's own requests are served.
final class FrontendLink {
    /// What this front end makes use of.
    static let implemented: ProtocolFeatures = [
        .multiQueue, .logSharedMemory, .replyAck, .backendRequests, .config, .inflight,
        .resetDevice, .memorySlots, .status, .deviceState, .inBandNotifications,
        .baseWithInflight, .skipDrain, .sharedMemory, .backendDescriptors,
    ]

    private let connection: Connection
    private let loop: EventLoop
    /// How long a reply may take, in nanoseconds.
    let timeout: UInt64
    /// When the handshake must be over.
    private var handshakeDeadline: UInt64?
    private var watch: EventRegistration?
    private var channel: Connection?
    private var channelWatch: EventRegistration?

    /// Called on the loop when the back end breaks the connection between requests.
    var onBroken: ((ConnectionError) -> Void)?
    /// Called when the back end says that the configuration space has changed, possibly in the
    /// midst of a request.
    var onConfigChange: (() -> Void)?
    /// Called when a message says that a queue's event has happened, possibly in the midst of a
    /// request.
    var onQueueMessage: ((BackendRequest, Int) -> Void)?
    /// Called when the back end wants a change of the memory that the device shares, possibly in the
    /// midst of a request; says whether that was possible.
    var onWindowChange: ((BackendRequest, SharedMemoryMap, [SharedFD]) -> Bool)?
    /// What to call once if a reply has not come by some time.
    var onSlowReply: (time: UInt64, call: () -> Void)?

    // What was agreed on and sent.
    var offered: UInt64 = 0
    var protocolFeatures: ProtocolFeatures = []
    var queueCount = 0
    var memorySlots = 0
    var memory: GuestMemory?
    var hasInflight = false

    init(_ socket: UnixSocket, on loop: EventLoop, options: FrontendOptions) {
        connection = Connection(socket, nameOf: Connection.frontendNames)
        self.loop = loop
        timeout = options.replyTimeoutMilliseconds &* 1_000_000
        handshakeDeadline =
            Clock.monotonic() &+ options.handshakeTimeoutMilliseconds &* 1_000_000
    }

    func has(_ feature: ProtocolFeatures) -> Bool { protocolFeatures.contains(feature) }

    var hasProtocolFeatures: Bool { offered & VhostFeature.protocolFeatures != 0 }

    /// The handshake is over: from now on the connection is watched for its end.
    func becomeIdle() {
        handshakeDeadline = nil
        onSlowReply = nil
        watch = loop.watch(connection.socket.fd.rawValue, for: .readable) { [unowned self] _ in
            checkIdle()
        }
    }

    private func checkIdle() {
        do {
            guard let message = try connection.receive() else { return }
            onBroken?(
                .protocolError(
                    ProtocolError(
                        Connection.frontendNames(message.header.request), "request",
                        "a message came that was not asked for")))
        } catch {
            onBroken?(error)
        }
    }

    // MARK: Requests

    /// Sends a request that has no reply of its own, and waits for its acknowledgement if the back
    /// end can give one.
    func command(
        _ request: FrontendRequest, _ payload: Payload = .none, fds: [SharedFD] = []
    ) throws(LinkError) {
        let wantsAck = has(.replyAck)
        try send(request, payload, fds, flags: wantsAck ? Header.needReplyFlag : 0)
        guard wantsAck else { return }
        let message = try waitForReply(request)
        guard case .u64(let result) = try decode(message, request, .u64), result == 0 else {
            throw .refused(request.rule.name)
        }
    }

    /// Sends a request that has a reply.
    func query(
        _ request: FrontendRequest, _ payload: Payload = .none, fds: [SharedFD] = []
    ) throws(LinkError) -> (payload: Payload, fds: [SharedFD]) {
        try send(request, payload, fds, flags: 0)
        let message = try waitForReply(request)
        // An empty reply is how a back end says that it cannot.
        if message.payload.isEmpty, request == .getConfig { throw .refused(request.rule.name) }
        let shape = request.rule.reply ?? .u64
        return (try decode(message, request, shape), message.fds)
    }

    /// Asks for a number.
    func queryNumber(_ request: FrontendRequest) throws(LinkError) -> UInt64 {
        guard case .u64(let value) = try query(request).payload else { return 0 }
        return value
    }

    private func decode(
        _ message: Message, _ request: FrontendRequest, _ shape: PayloadShape
    ) throws(LinkError) -> Payload {
        do {
            return try message.replyPayload(
                of: request.rule, request: request.rawValue, shape: shape)
        } catch {
            throw .broken(.protocolError(error))
        }
    }

    private func send(
        _ request: FrontendRequest, _ payload: Payload, _ fds: [SharedFD], flags: UInt32
    ) throws(LinkError) {
        do {
            try connection.send(
                Message(
                    request: request.rawValue, flags: Header.version | flags,
                    payload: payload.bytes, fds: fds))
        } catch {
            throw .broken(error)
        }
    }

    private func waitForReply(_ request: FrontendRequest) throws(LinkError) -> Message {
        // Before a queue stops, what was taken from it is finished, which may take its time.
        let isLong = [.getVringBase, .setDeviceStateFD, .checkDeviceState].contains(request)
        let patience: UInt64 = isLong ? 3 : 1
        var deadline = Clock.monotonic() &+ timeout &* patience
        if let handshakeDeadline { deadline = min(deadline, handshakeDeadline) }
        while true {
            do {
                if let message = try connection.receive() { return message }
                let now = Clock.monotonic()
                guard now < deadline else { throw ConnectionError.timedOut(request.rule.name) }
                if let slow = onSlowReply, now >= slow.time {
                    onSlowReply = nil
                    slow.call()
                }
                let next = min(deadline, onSlowReply?.time ?? deadline)
                let left = UInt32(clamping: (next - now) / 1_000_000 + 1)
                let isChannelReady = connection.socket.waitReadable(
                    orElse: channel?.socket, timeoutMilliseconds: left)
                if isChannelReady { try serveChannel() }
            } catch let error as ConnectionError {
                throw .broken(error)
            } catch {
                throw .broken(.timedOut(request.rule.name))
            }
        }
    }

    // MARK: The back end's requests

    /// Gives the back end a channel for requests of its own.
    func openChannel() throws(LinkError) {
        let (near, far) = try Self.pair()
        try command(.setBackendReqFD, fds: [far.fd])
        channel = Connection(near, nameOf: Connection.backendNames)
        channelWatch = loop.watch(near.fd.rawValue, for: .readable) { [unowned self] _ in
            do throws(ConnectionError) {
                try serveChannel()
            } catch {
                onBroken?(error)
            }
        }
    }

    static func pair() throws(LinkError) -> (near: UnixSocket, far: UnixSocket) {
        do {
            return try UnixSocket.pair()
        } catch {
            throw .broken(.system(error))
        }
    }

    private func closeChannel() {
        channelWatch = nil
        channel = nil
    }

    /// Serves one request: a back end that sends without end must not keep us from anything else.
    private func serveChannel() throws(ConnectionError) {
        guard let channel else { return }
        let message: Message?
        do {
            message = try channel.receive()
        } catch .closed {
            // A back end may do without.
            return closeChannel()
        }
        if let message { try serve(message, on: channel) }
    }

    private func serve(_ message: Message, on channel: Connection) throws(ConnectionError) {
        let header = message.header
        // A reply to something that was never asked.
        guard !header.isReply else {
            throw .protocolError(
                ProtocolError(
                    Connection.backendNames(header.request), "flags",
                    "a request has the reply flag"))
        }
        var result: UInt64 = 1
        var wasRefused = false
        if let request = BackendRequest(rawValue: header.request) {
            let payload: Payload
            do {
                payload = try message.payload(of: request.rule)
            } catch {
                throw .protocolError(error)
            }
            switch (request, payload) {
            case (.configChangeMsg, _):
                onConfigChange?()
                result = 0
            case (.vringCall, .vringState(let state)) where has(.inBandNotifications),
                (.vringErr, .vringState(let state)) where has(.inBandNotifications):
                onQueueMessage?(request, Int(state.index))
                result = 0
            case (.shmemMap, .sharedMemoryMap(let map)), (.shmemUnmap, .sharedMemoryMap(let map)):
                if let onWindowChange, has(.sharedMemory) {
                    wasRefused = !onWindowChange(request, map, message.fds)
                    result = wasRefused ? 1 : 0
                }
            default: break
            }
        }
        if result != 0, !wasRefused {
            Frontend.log.guest(
                "\(Connection.backendNames(header.request)) is not supported")
        }
        guard header.needsReply, has(.replyAck) else { return }
        // A back end that lets its replies pile up does not want them.
        try channel.send(
            Message(
                request: header.request, flags: Header.version | Header.replyFlag,
                payload: Payload.u64(result).bytes), timeoutMilliseconds: 0)
    }
}
