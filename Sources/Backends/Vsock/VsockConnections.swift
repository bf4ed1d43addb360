internal import Core

/// All connections of a guest, and what it is to be told about them, one packet after the other.
final class VsockConnections {
    private static let limit = 512
    /// Answers that belong to no connection and wait for the guest's buffers.
    private static let refusalLimit = 64
    /// Ports of the host for connections to the guest; those below are for programs that listen.
    private static let firstHostPort: UInt32 = 1 << 30

    private struct Key: Hashable {
        let guestPort: UInt32
        let hostPort: UInt32
    }

    private let host: VsockHost
    private let cid: UInt64
    private let loop: EventLoop
    private var connections: [Key: VsockConnection] = [:]
    private var refusals: [VsockHeader] = []
    /// Those that wait for their turn.
    private var queue: [VsockConnection] = []
    private var nextHostPort = firstHostPort

    /// Something on the host happened: the guest may have to be told.
    var onReady: (() -> Void)?

    init(_ host: VsockHost, cid: UInt64, loop: EventLoop) {
        self.host = host
        self.cid = cid
        self.loop = loop
        host.onCall = { [unowned self] port, fd in
            call(port, fd)
            onReady?()
        }
    }

    /// Whether another packet may be taken from the guest: each may need an answer.
    var hasRoom: Bool { refusals.count < Self.refusalLimit }

    var isEmpty: Bool { connections.isEmpty }

    /// Ends all connections; the guest is not told.
    func closeAll() {
        for connection in connections.values { connection.close() }
        connections = [:]
        refusals = []
        queue = []
    }

    // MARK: From the host

    private func call(_ guestPort: UInt32, _ fd: SharedFD) {
        guard connections.count < Self.limit else { return }
        var key = Key(guestPort: guestPort, hostPort: nextHostPort)
        while connections[key] != nil {
            advancePort()
            key = Key(guestPort: guestPort, hostPort: nextHostPort)
        }
        advancePort()
        add(key, fd, isRequested: false)
    }

    private func advancePort() {
        nextHostPort = nextHostPort == .max - 1 ? Self.firstHostPort : nextHostPort + 1
    }

    private func add(_ key: Key, _ fd: SharedFD, isRequested: Bool) {
        let connection = VsockConnection(
            guest: VsockAddress(cid: cid, port: key.guestPort),
            host: VsockAddress(cid: VsockAddress.hostCID, port: key.hostPort), fd,
            isRequested: isRequested, on: loop
        ) { [unowned self] in
            settle($0)
            onReady?()
        }
        connections[key] = connection
        settle(connection)
    }

    // MARK: From the guest

    /// Takes a packet that the guest sent.
    func take(_ chain: DescriptorChain) {
        guard let header = VsockHeader(chain) else {
            return VsockDevice.log.guest("a packet without a whole header is dropped")
        }
        guard header.source.cid == cid else {
            return VsockDevice.log.guest("a packet of context \(header.source.cid) is dropped")
        }
        let key = Key(guestPort: header.source.port, hostPort: header.destination.port)
        guard header.type == VsockHeader.stream, header.destination.cid == VsockAddress.hostCID
        else { return refuse(header) }
        if header.operation == VsockHeader.Operation.request {
            request(key, header)
        } else if let connection = connections[key] {
            take(header, key, chain, connection)
        } else {
            refuse(header)
        }
    }

    private func request(_ key: Key, _ header: VsockHeader) {
        if let connection = connections[key] {
            remove(key, connection)
            return refuse(header)
        }
        guard connections.count < Self.limit, let fd = host.connect(port: key.hostPort) else {
            return refuse(header)
        }
        add(key, fd, isRequested: true)
        connections[key]?.update(header)
    }

    private func take(
        _ header: VsockHeader, _ key: Key, _ chain: DescriptorChain, _ connection: VsockConnection
    ) {
        connection.update(header)
        switch header.operation {
        case VsockHeader.Operation.response: connection.establish()
        case VsockHeader.Operation.reset: return remove(key, connection)
        case VsockHeader.Operation.shutdown:
            connection.shutDown(VsockShutdown(rawValue: header.flags))
        case VsockHeader.Operation.data: connection.take(chain, count: header.length)
        case VsockHeader.Operation.creditUpdate: break
        case VsockHeader.Operation.creditRequest: connection.requestCredit()
        default:
            remove(key, connection)
            return refuse(header)
        }
        settle(connection)
    }

    /// Answers a packet with a reset, unless it is one.
    private func refuse(_ header: VsockHeader) {
        guard header.operation != VsockHeader.Operation.reset else { return }
        refusals.append(
            VsockHeader(
                from: header.destination, to: header.source, VsockHeader.Operation.reset))
    }

    private func remove(_ key: Key, _ connection: VsockConnection) {
        connection.close()
        connections[key] = nil
        if connection.isQueued { queue.removeAll { $0 === connection } }
    }

    // MARK: To the guest

    /// After anything happened to a connection.
    private func settle(_ connection: VsockConnection) {
        connection.updateWatch()
        guard connection.isReady, !connection.isQueued else { return }
        connection.isQueued = true
        queue.append(connection)
    }

    /// Whether there is a packet for the guest.
    var hasPacket: Bool {
        while let first = queue.first, !first.isReady {
            first.isQueued = false
            queue.removeFirst()
        }
        return !refusals.isEmpty || !queue.isEmpty
    }

    /// Writes the next packet into a chain that has room for a header; only if there is one.
    /// - Returns: its size.
    func fill(_ chain: DescriptorChain) -> UInt32 {
        if !refusals.isEmpty {
            refusals.removeFirst().write(to: chain)
            return UInt32(VsockHeader.size)
        }
        let connection = queue.removeFirst()
        connection.isQueued = false
        let (size, isLast) = connection.fill(chain)
        if isLast {
            let key = Key(guestPort: connection.guest.port, hostPort: connection.host.port)
            remove(key, connection)
        } else {
            settle(connection)
        }
        return size
    }
}
