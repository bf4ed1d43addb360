import Core
import Synchronization
import TestSupport
import Testing
import VhostUser

@Suite("A back-end server that is sent nonsense")
struct MalformedMessageTests {
    /// A valid payload for each shape.
    static func payload(_ shape: PayloadShape) -> [UInt8] {
        switch shape {
        case .none: []
        case .u64, .vringState, .deviceState: [UInt8](repeating: 0, count: 8)
        case .vringAddress, .memoryRegion, .sharedMemoryMap: [UInt8](repeating: 0, count: 40)
        case .memoryTable: littleEndian(0 as UInt64)
        case .log, .uuid: [UInt8](repeating: 0, count: 16)
        case .config: littleEndian(0, 1, 0 as UInt32) + [0]
        case .inflight: [UInt8](repeating: 0, count: 24)
        case .iotlb: littleEndian(0, 0, 0 as UInt64) + [1, 2]
        case .vringArea: [UInt8](repeating: 0, count: 24)
        case .sharedMemoryConfig: littleEndian(0 as UInt64)
        case .opaque: []
        }
    }

    /// The connection is closed, the descriptors are released, and the next client is served.
    private func check(_ packet: [UInt8], fds count: Int = 1) throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        try peer.negotiate()
        let probe = try FDProbe()
        try peer.send(
            packet, fds: (0..<count).flatMap { _ in probe.passed })
        probe.release()
        #expect(peer.isClosed())
        #expect(probe.isReleased(rig.loop))
        let next = try rig.connect()
        #expect(!(try next.ask(.getFeatures).isEmpty))
    }

    @Test("refuses every request that is too short", arguments: FrontendRequest.allCases)
    func tooShort(request: FrontendRequest) throws {
        let rule = request.rule
        let payload = Self.payload(rule.payload)
        guard !payload.isEmpty else { return }
        try check(packet(request.rawValue, Array(payload.dropLast())))
    }

    @Test("refuses every request that is too long", arguments: FrontendRequest.allCases)
    func tooLong(request: FrontendRequest) throws {
        let extra = [UInt8](repeating: 0, count: 300)
        try check(packet(request.rawValue, Self.payload(request.rule.payload) + extra))
    }

    @Test("refuses every request with too many descriptors", arguments: FrontendRequest.allCases)
    func tooManyDescriptors(request: FrontendRequest) throws {
        let rule = request.rule
        try check(
            packet(request.rawValue, Self.payload(rule.payload)),
            fds: rule.descriptors.upperBound + 1)
    }

    @Test(
        "refuses every request without the descriptor that it needs",
        arguments: FrontendRequest.allCases.filter { $0.rule.descriptors.lowerBound > 0 })
    func tooFewDescriptors(request: FrontendRequest) throws {
        try check(packet(request.rawValue, Self.payload(request.rule.payload)), fds: 0)
    }

    @Test("refuses every request with the reply flag", arguments: FrontendRequest.allCases)
    func replyFlag(request: FrontendRequest) throws {
        try check(packet(request.rawValue, flags: 5, Self.payload(request.rule.payload)))
    }

    @Test(
        "refuses what it does not implement or was not negotiated",
        arguments: [
            .sendRARP, .netSetMTU, .iotlbMsg, .setVringEndian, .createCryptoSession,
            .closeCryptoSession, .postcopyAdvise, .postcopyListen, .postcopyEnd, .gpuSetSocket,
            .getSharedObject, .getShmemConfig,
        ] as [FrontendRequest])
    func unsupported(request: FrontendRequest) throws {
        let rule = request.rule
        try check(
            packet(request.rawValue, Self.payload(rule.payload)), fds: rule.descriptors.lowerBound)
    }

    @Test(
        "refuses unknown requests, versions and sizes",
        arguments: [
            packet(0), packet(45), packet(1000), packet(1, flags: 0), packet(1, flags: 2),
            littleEndian(1, 1, 4097 as UInt32), littleEndian(1, 1, UInt32.max),
        ])
    func headers(packet: [UInt8]) throws { try check(packet) }

    @Test("refuses more descriptors than a message can have")
    func flood() throws { try check(packet(1), fds: 64) }

    @Test("gives up on a message that never ends")
    func unfinished() throws {
        let rig = try ServerRig()
        var peer: RawPeer? = try rig.connect()
        let probe = try FDProbe()
        try peer?.send(littleEndian(5, 1 as UInt32), fds: probe.passed)
        probe.release()
        rig.loop.runOnce(timeoutMilliseconds: 50)
        #expect(rig.server.isConnected)
        peer = nil
        #expect(probe.isReleased(rig.loop))
        #expect(!(try rig.connect().ask(.getFeatures).isEmpty))
    }

    @Test("gives up on a front end that stops in the midst of a message")
    func stuck() throws {
        var options = BackendServer.Options()
        options.messageTimeoutMilliseconds = 50
        let rig = try ServerRig(options: options)
        let peer = try rig.connect()
        let probe = try FDProbe()
        try peer.send(littleEndian(5, 1, 8 as UInt32) + [1], fds: probe.passed)
        probe.release()
        let waiting = try rig.connect()
        #expect(peer.isClosed())
        #expect(probe.isReleased(rig.loop))
        #expect(!(try waiting.ask(.getFeatures).isEmpty))
        // Between two messages there is no limit.
        rig.loop.runOnce(timeoutMilliseconds: 100)
        #expect(!(try waiting.ask(.getFeatures).isEmpty))
    }

    @Test("is not kept from other work by a front end that sends without end")
    func endless() throws {
        let rig = try ServerRig()
        let socket = try rig.connect().socket
        let message = (0..<64).flatMap { _ in packet(FrontendRequest.setOwner.rawValue) }
        let end = Clock.monotonic() + 60_000_000_000
        let isOver = Atomic<Bool>(false)
        let flood = try Thread(name: "test-flood") {
            while !isOver.load(ordering: .relaxed), Clock.monotonic() < end,
                (try? socket.send(message)) != nil
            {}
        }
        #expect(rig.loop.run { rig.server.isConnected })
        rig.loop.runOnce(timeoutMilliseconds: 100)
        var isDone = false
        let timer = rig.loop.after(milliseconds: 1) { isDone = true }
        while !isDone { rig.loop.runOnce(timeoutMilliseconds: 10) }
        #expect(Clock.monotonic() < end)
        isOver.store(true, ordering: .relaxed)
        timer.cancel()
        rig.server.stop()
        flood.join()
    }

    @Test("puts messages together that come in pieces")
    func pieces() throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        for byte in packet(1) {
            try peer.send([byte])
            rig.loop.runOnce(timeoutMilliseconds: 100)
        }
        #expect(try peer.reply(to: .getFeatures).count == 8)
    }

    @Test("says no and goes on where the front end wants to know")
    func refusal() throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        try peer.negotiate()
        let one = littleEndian(1 as UInt64)
        let refused: [(FrontendRequest, [UInt8])] = [
            (.setVringNum, littleEndian(2, 16 as UInt32)),
            (.setVringNum, littleEndian(0, 0 as UInt32)),
            (.setVringNum, littleEndian(0, 257 as UInt32)),
            (.setVringBase, littleEndian(0, 65536 as UInt32)),
            (.setVringEnable, littleEndian(0, 2 as UInt32)),
            (.setVringAddr, littleEndian(0, 2 as UInt32) + littleEndian(0, 0, 0, 0 as UInt64)),
            (.setFeatures, littleEndian(1 << 33 as UInt64)),
            (.setProtocolFeatures, littleEndian(1 << 40 as UInt64)),
            (.setVringKick, littleEndian(0 as UInt64)),
            (.setVringCall, littleEndian(7 | 0x100 as UInt64)),
            (.remMemReg, [UInt8](repeating: 0, count: 40)),
            (.setConfig, littleEndian(0, 1, 2 as UInt32) + [0]),
            (.setConfig, littleEndian(12, 1, 0 as UInt32) + [0]),
            (.setConfig, littleEndian(16, 1, 0 as UInt32) + [0]),
            (.setStatus, littleEndian(256 as UInt64)),
            (.sendRARP, one),
        ]
        for (request, payload) in refused {
            #expect(try peer.ask(request, payload, needsReply: true) == one, "\(request)")
        }
        #expect(try peer.ask(.setOwner, needsReply: true) == littleEndian(0 as UInt64))
    }

    @Test("keeps the connection when a driver's write to read-only fields needs no answer")
    func readOnlyConfig() throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        try peer.negotiate()
        let before = rig.device.config
        for offset: UInt32 in [12, 16, .max] {
            try peer.send(.setConfig, littleEndian(offset, 1, 0 as UInt32) + [0x55])
        }
        #expect(!(try peer.ask(.getFeatures).isEmpty))
        #expect(rig.device.config == before)
        // What is wrong with the message itself still ends it.
        try peer.send(.setConfig, littleEndian(0, 1, 2 as UInt32) + [0])
        #expect(peer.isClosed())
    }

    @Test("refuses memory that cannot be mapped")
    func memory() throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        try peer.negotiate()
        let file = SharedFD(try MemFD(name: "test", size: 0x4000).fd.duplicate())
        func add(_ guest: UInt64, _ size: UInt64, _ user: UInt64, _ offset: UInt64) throws -> Bool {
            let payload = littleEndian(0, guest, size, user, offset)
            let reply = try peer.ask(.addMemReg, payload, fds: [file], needsReply: true)
            return reply == littleEndian(0 as UInt64)
        }
        #expect(try add(0, 0x1000, 0, 0))
        #expect(try !add(0x10000, 0, 0x10000, 0))
        #expect(try !add(0x10000, 0x8000, 0x10000, 0))
        #expect(try !add(0x10000, 0x1000, 0x10000, 0x4000))
        #expect(try !add(0x10000, 0x2000, 0x10000, UInt64.max - 0xfff))
        #expect(try !add(0x10000, 0x1000, 0x800, 0))
        #expect(try !add(0x800, 0x1000, 0x10000, 0))
        #expect(try !add(UInt64.max - 0xffe, 0x1000, 0x10000, 0))
        #expect(try !add(0x10000, 0x1000, UInt64.max - 0xffe, 0))
        #expect(try add(0x10000, 0x1001, 0x10000, 0x2fff))
    }

    @Test("removes a region as often as it was added")
    func repetition() throws {
        let rig = try ServerRig()
        let peer = try rig.connect()
        try peer.negotiate()
        let file = SharedFD(try MemFD(name: "test", size: 0x4000).fd.duplicate())
        func ask(
            _ request: FrontendRequest, guest: UInt64 = 0, fds: [SharedFD] = []
        ) throws -> Bool {
            let payload = littleEndian(0, guest, 0x1000, 0x10000, 0 as UInt64)
            let reply = try peer.ask(request, payload, fds: fds, needsReply: true)
            return reply == littleEndian(0 as UInt64)
        }
        for _ in 0..<3 { #expect(try ask(.addMemReg, fds: [file])) }
        for _ in 0..<3 {
            // The first one is there, in the same place for the front end.
            #expect(try !ask(.addMemReg, guest: 0x8000, fds: [file]))
            #expect(try ask(.remMemReg))
        }
        #expect(try !ask(.remMemReg))
        #expect(try ask(.addMemReg, guest: 0x8000, fds: [file]))
    }

    @Test("drops a front end that does not read, at once if others must not wait for it")
    func unread() throws {
        var options = BackendServer.Options()
        options.answerTimeoutMilliseconds = 0
        let rig = try ServerRig(options: options)
        let peer = try rig.connect()
        _ = try peer.ask(.getFeatures)
        let begin = Clock.monotonic()
        for _ in 0..<20_000 where rig.server.isConnected {
            try? peer.send(.getFeatures)
            rig.loop.runOnce(timeoutMilliseconds: 1)
        }
        #expect(!rig.server.isConnected)
        #expect(Clock.monotonic() - begin < 4_000_000_000)
        #expect(!(try rig.connect().ask(.getFeatures).isEmpty))
    }
}
