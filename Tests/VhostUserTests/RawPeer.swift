import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// A back-end server with its device on a loop, and raw connections to it.
final class ServerRig {
    let loop: EventLoop
    let device: EchoDevice
    let server: BackendServer
    private let folder: TestFolder
    private var path: String { folder["socket"] }

    init(queueCount: Int = 2, options: BackendServer.Options = .init()) throws {
        loop = try EventLoop()
        device = EchoDevice(on: loop, queueCount: queueCount)
        folder = try TestFolder()
        server = BackendServer(
            device, on: loop, as: .listen(try UnixListener(path: folder["socket"])),
            options: options)
        server.start()
    }

    func connect() throws -> RawPeer { RawPeer(try UnixSocket(connectingTo: path), loop) }
}

/// The front end's end of a connection, which sends whatever bytes a test wants. The server runs on
/// the same thread, while the peer waits.
final class RawPeer {
    let socket: UnixSocket
    private let loop: EventLoop

    init(_ socket: UnixSocket, _ loop: EventLoop) {
        self.socket = socket
        self.loop = loop
    }

    func send(_ bytes: [UInt8], fds: [SharedFD] = []) throws { try socket.send(bytes, fds: fds) }

    func send(
        _ request: FrontendRequest, _ payload: [UInt8] = [], fds: [SharedFD] = [],
        needsReply: Bool = false
    ) throws {
        try send(packet(request.rawValue, flags: needsReply ? 9 : 1, payload), fds: fds)
    }

    /// What the server sends back, up to `count` bytes.
    func receive(_ count: Int = 4096) throws -> ReceivedBytes {
        var result: ReceivedBytes?
        _ = loop.run(timeoutMilliseconds: 5000) {
            result = (try? socket.receive(upTo: count)) ?? nil
            return result != nil
        }
        return try #require(result, "the server says nothing")
    }

    /// The payload of the reply to `request`.
    func reply(to request: FrontendRequest) throws -> [UInt8] {
        let reply = try receive()
        #expect(reply.bytes.prefix(8) == littleEndian(request.rawValue, 5)[...])
        return Array(reply.bytes.dropFirst(12))
    }

    func ask(
        _ request: FrontendRequest, _ payload: [UInt8] = [], fds: [SharedFD] = [],
        needsReply: Bool = false
    ) throws -> [UInt8] {
        try send(request, payload, fds: fds, needsReply: needsReply)
        return try reply(to: request)
    }

    /// Whether the server closes the connection.
    func isClosed() -> Bool {
        loop.run(timeoutMilliseconds: 5000) {
            do {
                return try socket.receive(upTo: 4096)?.bytes.isEmpty ?? false
            } catch {
                return true
            }
        }
    }

    /// Negotiates everything the server has.
    func negotiate(features: UInt64? = nil) throws {
        let offered = value(try ask(.getFeatures))
        let protocolFeatures = try ask(.getProtocolFeatures)
        try send(.setProtocolFeatures, protocolFeatures)
        try send(.setOwner)
        let accepted = features ?? (offered & ~VhostFeature.logAll & ~VirtioFeature.packedRing)
        try send(.setFeatures, littleEndian(accepted))
    }

    func value(_ bytes: [UInt8]) -> UInt64 {
        bytes.prefix(8).enumerated().reduce(0) { $0 | UInt64($1.element) << (8 * $1.offset) }
    }
}

/// A descriptor to pass on, and a way to see when nobody holds it any more.
final class FDProbe {
    private let near: UnixSocket
    private(set) var passed: [SharedFD]

    init() throws {
        let (near, far) = try UnixSocket.pair()
        self.near = near
        passed = [far.fd]
    }

    func release() { passed = [] }

    /// Whether all copies of the descriptor have been closed.
    func isReleased(_ loop: EventLoop) -> Bool {
        loop.run(timeoutMilliseconds: 2000) {
            ((try? near.receive(upTo: 1)) ?? nil)?.bytes.isEmpty ?? false
        }
    }
}
