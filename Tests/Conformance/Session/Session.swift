import Core
import TestSupport

/// A connection that has come to some step, with the memory, rings and driver that belong to it.
final class Session {
    static let ringSize: UInt16 = 64
    /// What is shared: memory for rings and buffers, and a region that nothing is in.
    static let mainStart: UInt64 = 1 << 20
    static let mainSize: UInt64 = 512 << 10
    static let spareStart: UInt64 = 4 << 20
    static let spareSize: UInt64 = 64 << 10
    /// A user address is not the guest's, so that a back end that confuses them fails.
    static let userOffset: UInt64 = 0x7f00_0000_0000

    let facts: Facts
    let kind: DeviceKind
    let isPacked: Bool
    let client: VhostUserClient
    let scratch: ScratchMemory
    private(set) var step = Step.connected
    private(set) var lanes: [Lane] = []
    private(set) var driver: (any DeviceDriver)?
    /// The memory in which the back end notes what is in flight, as it described it.
    private(set) var inflight: (description: [UInt8], fd: SharedFD)?
    private(set) var log: SharedFD?
    private let timeout: UInt64

    init(
        _ client: VhostUserClient, _ facts: Facts, _ kind: DeviceKind, isPacked: Bool,
        timeout: UInt64
    ) throws {
        self.client = client
        self.facts = facts
        self.kind = kind
        self.isPacked = isPacked
        self.timeout = timeout
        client.userOffset = Self.userOffset
        scratch = try ScratchMemory([
            (Self.mainStart, Self.mainSize), (Self.spareStart, Self.spareSize),
        ])
    }

    /// The lane of requests.
    var lane: Lane { lanes[kind.requestQueue] }
    var features: UInt64 { facts.wanted(isPacked: isPacked) }
    var needsReplyWorks: Bool { step > .connected && facts.has(.replyAck) }

    /// Brings the connection to `step`. What goes wrong is the back end's fault.
    func reach(_ step: Step) throws {
        if step >= .negotiated { try client.negotiateProtocol(facts.wantedProtocol) }
        if step >= .owned { try client.own(features) }
        if step >= .memory { try client.share(scratch.memory) }
        if step == .inflight { try trackInflight() }
        if step >= .rings { try configure() }
        if step >= .enabled { try enable() }
        if step >= .running { try start() }
        if step == .logged { try startLog() }
        if step == .busy { driver?.launch(lane) }
        if step == .suspended { try stopAll() }
        if step == .reset { try client.send(.resetDevice) }
        self.step = step
    }

    /// Gets memory for what is in flight, and gives it back, as QEMU does.
    private func trackInflight() throws {
        let inflight = try makeInflight()
        try client.send(.setInflight, inflight.description, fds: [inflight.fd])
    }

    /// Asks for memory for what is in flight.
    @discardableResult
    func makeInflight() throws -> (description: [UInt8], fd: SharedFD) {
        if let inflight { return inflight }
        try client.send(.getInflight, inflightRequest)
        let reply = try client.reply(to: .getInflight)
        guard let fd = reply.fds.first else { throw Failure("GET_INFLIGHT_FD gives no memory") }
        inflight = (reply.payload, fd)
        return (reply.payload, fd)
    }

    /// What is asked for, in the form that C's structures have: with padding.
    var inflightRequest: [UInt8] {
        [UInt8](repeating: 0, count: 16) + littleEndian(UInt16(kind.requestQueue + 1))
            + littleEndian(Self.ringSize) + [0, 0, 0, 0]
    }

    private func configure() throws {
        for index in 0...kind.requestQueue {
            let queue = DriverQueue(scratch, size: Self.ringSize, features: features)
            let lane = Lane(queue: queue, kick: try EventFD(), call: try EventFD())
            lanes.append(lane)
            try client.configure(UInt32(index), queue, state: queue.state, call: lane.call)
        }
        driver = kind.makeDriver(scratch, features: features)
    }

    private func enable() throws {
        for index in lanes.indices {
            let number = UInt32(index)
            try client.send(
                .setKick, littleEndian(UInt64(number)), fds: [lanes[index].kick.fd])
            if features & VhostUserClient.protocolFeaturesBit != 0 {
                try client.send(
                    .enableRing,
                    littleEndian(number) + littleEndian(1 as UInt32))
            }
        }
    }

    private func start() throws {
        for lane in lanes { lane.kick.signal() }
        try checkDevice()
    }

    /// Does I/O.
    func checkDevice() throws {
        try driver?.check(lane, timeoutMilliseconds: timeout)
    }

    /// Waits for what is under way, and does more.
    func checkBusyDevice() throws {
        if step == .busy { try driver?.finish(lane, timeoutMilliseconds: timeout) }
        try checkDevice()
    }

    // MARK: Log

    /// The payload of SET_LOG_BASE for a log that covers all memory.
    static let logSize: UInt64 = 4096
    var logDescription: [UInt8] { [Self.logSize, 0].flatMap { littleEndian($0) } }

    func makeLog() throws -> SharedFD {
        if let log { return log }
        let file = try MemFD(name: "log", size: Self.logSize)
        let fd = SharedFD(try file.fd.duplicate())
        log = fd
        return fd
    }

    private func startLog() throws {
        try client.send(.setLogBase, logDescription, fds: [makeLog()], hasReply: true)
        try client.send(.setFeatures, littleEndian(features | Facts.logAll))
        for (index, lane) in lanes.enumerated() {
            try client.send(
                .setRingAddresses,
                client.addresses(UInt32(index), lane.queue.layout, isLogged: true))
        }
        // With the answer, the log is known to be in use.
        try client.send(.getFeatures, hasReply: true)
        try checkDevice()
        try checkLog()
    }

    /// Looks whether the log shows what the device has written. It may do so a little later.
    func checkLog() throws {
        guard let log, let driver else { return }
        let map = DirtyLog(try MemoryMapping(sharing: log.rawValue, size: Int(Self.logSize)))
        let used = isPacked ? lane.queue.layout.descriptors : lane.queue.layout.device
        let limit = Clock.monotonic() + timeout * 1_000_000
        let buffer = driver.written?.address ?? used
        for (name, address) in [("buffer", buffer), ("used ring", used)] {
            while !map.isMarked(page: address.rawValue >> 12) {
                guard Clock.monotonic() < limit else {
                    throw Failure("the log does not show that a \(name) was written to")
                }
                Clock.sleep(milliseconds: 1)
            }
        }
    }

    // MARK: Stopping, resuming, replaying

    /// Stops a ring and looks at where it says it was.
    func stop(_ index: Int) throws {
        let answer = try client.stop(UInt32(index))
        let expected = client.base(lanes[index].queue.state)
        guard answer == expected else {
            throw Failure(
                "GET_VRING_BASE of ring \(index) says \(answer), the driver is at \(expected)")
        }
    }

    /// Sets the rings up again on the same connection, after they were stopped, and does I/O.
    func resume() throws {
        for (index, lane) in lanes.enumerated() {
            try client.start(UInt32(index), lane.queue, kick: lane.kick, call: lane.call)
        }
        try checkDevice()
    }

    /// Sets the device up again on the same connection, after it was reset, and does I/O.
    func restart() throws {
        try client.own(features)
        try client.share(scratch.memory)
        lanes = []
        try configure()
        try enable()
        try start()
    }

    /// Continues a session whose back end was killed, with its memory and rings, as QEMU does.
    func replay(on other: VhostUserClient) throws -> Session {
        let next = Session(continuing: self, on: other)
        try other.negotiateProtocol(facts.wantedProtocol)
        try other.own(features)
        if let inflight {
            try other.send(.setInflight, inflight.description, fds: [inflight.fd])
        }
        try other.share(scratch.memory)
        for (index, lane) in lanes.enumerated() {
            // The used ring says where a split ring stands; a packed one is as it was in the
            // beginning, unless the memory for what is in flight knows better.
            let used = try scratch.memory.read(
                GuestAddress(lane.queue.layout.device.rawValue + 2), as: UInt16.self)
            let state =
                isPacked ? QueueState.freshPacked : QueueState(nextAvailable: used, nextUsed: used)
            try other.configure(UInt32(index), lane.queue, state: state, call: lane.call)
        }
        try next.enable()
        for lane in lanes { lane.kick.signal() }
        next.step = .busy
        return next
    }

    /// Continues a session whose rings are stopped with another back end, which gets its state.
    func takeOver(on other: VhostUserClient, _ state: [UInt8]) throws -> Session {
        let next = Session(continuing: self, on: other)
        try other.negotiateProtocol(facts.wantedProtocol)
        try other.own(features)
        try next.loadState(state)
        try other.share(scratch.memory)
        for (index, lane) in lanes.enumerated() {
            try other.configure(
                UInt32(index), lane.queue, state: lane.queue.state, call: lane.call)
        }
        try next.enable()
        for lane in lanes { lane.kick.signal() }
        next.step = .running
        return next
    }

    private init(continuing old: Session, on client: VhostUserClient) {
        facts = old.facts
        kind = old.kind
        isPacked = old.isPacked
        self.client = client
        scratch = old.scratch
        timeout = old.timeout
        lanes = old.lanes
        driver = old.driver
        inflight = old.inflight
        client.userOffset = Self.userOffset
    }
}
