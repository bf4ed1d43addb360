import Core
import Synchronization
import TestSupport
import Testing
import VhostUser

/// Introduces itself with shared memory, acknowledges everything, and gives its channel away.
private final class SharingBackend {
    private let thread: Thread

    init(_ socket: UnixSocket, sizes: [UInt64]) throws {
        let features: ProtocolFeatures = [.replyAck, .backendRequests, .sharedMemory]
        let found = Mailbox()
        thread = try Thread(name: "test-sharing") {
            let connection = Connection(socket, nameOf: Connection.frontendNames)
            defer { socket.shutDown() }
            while socket.waitReadable(timeoutMilliseconds: 5000) {
                guard let message = try? connection.receive() else { return }
                let request = FrontendRequest(rawValue: message.header.request)
                var payload: [UInt8]
                switch request {
                case .getFeatures:
                    payload = littleEndian(VirtioFeature.version1 | VhostFeature.protocolFeatures)
                case .getProtocolFeatures: payload = littleEndian(features.rawValue)
                case .getShmemConfig:
                    payload =
                        littleEndian(UInt32(sizes.count), 0) + sizes.flatMap { littleEndian($0) }
                case .setBackendReqFD:
                    found.set(message.fds.first.flatMap { try? UnixSocket(adopting: $0) })
                    payload = littleEndian(0 as UInt64)
                default: payload = littleEndian(0 as UInt64)
                }
                let isAnswered = request?.rule.reply != nil || message.header.needsReply
                if isAnswered {
                    try? socket.send(packet(message.header.request, flags: 5, payload))
                }
            }
        }
        self.found = found
    }

    private let found: Mailbox
    var channelSocket: UnixSocket? { found.get() }

    func join() { thread.join() }

    private final class Mailbox: Sendable {
        private let socket = Mutex<UnixSocket?>(nil)
        func set(_ new: UnixSocket?) { socket.withLock { $0 = new } }
        func get() -> UnixSocket? { socket.withLock { $0 } }
    }
}

@Suite("A window and a hostile back end")
struct HostileWindowTests {
    private let loop: EventLoop
    private let frontend: Frontend
    private let near: UnixSocket
    private let far: UnixSocket

    init() throws {
        loop = try EventLoop()
        var options = FrontendOptions(.supervised, deviceID: VirtioDeviceID(42))
        options.configSize = 0
        options.sharesMemory = true
        frontend = Frontend(options, on: loop)
        (near, far) = try UnixSocket.pair()
    }

    private func run(
        sizes: [UInt64], _ body: (UnixSocket) throws -> Void
    ) throws {
        let backend = try SharingBackend(far, sizes: sizes)
        defer {
            near.shutDown()
            frontend.close()
            backend.join()
        }
        try frontend.attach(near)
        try body(try #require(backend.channelSocket))
    }

    private static func map(
        region: UInt64 = 0, from: UInt64 = 0, at: UInt64 = 0, size: UInt64 = 4096,
        flags: UInt64 = 1
    ) -> [UInt8] { littleEndian(region, from, at, size, flags) }

    private var file: SharedFD {
        get throws { SharedFD(try MemFD(name: "shared", size: 4096).fd.duplicate()) }
    }

    @Test(
        "regions that cannot be are refused",
        arguments: [
            [4095], [UInt64.max & ~4095, 4096], [1 << 40], Array(repeating: 4096, count: 257),
        ] as [[UInt64]])
    func regions(sizes: [UInt64]) throws {
        #expect(throws: FrontendError.self) { try run(sizes: sizes) { _ in } }
        #expect(frontend.window == nil)
    }

    @Test("no regions at all are no window", arguments: [[], [0, 0]] as [[UInt64]])
    func noRegions(sizes: [UInt64]) throws {
        try run(sizes: sizes) { channel in
            try channel.send(packet(9, flags: 9, Self.map()), fds: [try file])
            let answered = loop.run { channel.waitReadable(timeoutMilliseconds: 0) }
            #expect(answered)
            #expect(
                try channel.receive(upTo: 4096)?.bytes
                    == packet(9, flags: 5, littleEndian(1 as UInt64)))
        }
    }

    @Test("flags without a meaning are refused", arguments: [2, 3, UInt64.max])
    func flags(value: UInt64) throws {
        try run(sizes: [1 << 20]) { channel in
            try channel.send(packet(9, flags: 9, Self.map(flags: value)), fds: [try file])
            let answered = loop.run { channel.waitReadable(timeoutMilliseconds: 0) }
            #expect(answered)
            #expect(
                try channel.receive(upTo: 4096)?.bytes
                    == packet(9, flags: 5, littleEndian(1 as UInt64)))
            #expect(frontend.window?.memory.pieceCount == 0)
        }
    }

    @Test(
        "a mapping has one descriptor, and the end of one none",
        arguments: [
            (9, 0), (9, 2), (10, 1),
        ] as [(UInt32, Int)])
    func descriptors(request: UInt32, count: Int) throws {
        try run(sizes: [1 << 20]) { channel in
            let file = try file
            try channel.send(
                packet(request, flags: 9, Self.map()), fds: Array(repeating: file, count: count))
            let isLost = loop.run { frontend.state != .connected }
            #expect(isLost)
            #expect(frontend.window?.memory.pieceCount == 0)
        }
    }

    @Test("what is shorter than the mapping is shown, and reads as zeroes behind its end")
    func shortFile() throws {
        try run(sizes: [1 << 20]) { channel in
            try channel.send(packet(9, flags: 9, Self.map(size: 0x3000)), fds: [try file])
            let answered = loop.run { channel.waitReadable(timeoutMilliseconds: 0) }
            #expect(answered)
            let window = try #require(frontend.window).memory
            #expect(window.pieceCount == 1)
            #expect(unsafe window.base.load(fromByteOffset: 0x2000, as: UInt8.self) == 0)
        }
    }
}
