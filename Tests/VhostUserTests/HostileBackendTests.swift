import Core
import Synchronization
import TestSupport
import Testing
import VhostUser

/// A back end that answers from a script, on a thread of its own.
private final class ScriptedBackend {
    /// What it does with a request: the bytes to send back; `nil` ends the connection.
    typealias Script = @Sendable (FrontendRequest, [UInt8]) -> [UInt8]?

    private let thread: Thread

    /// A reply with a payload.
    static func reply(_ request: FrontendRequest, _ payload: [UInt8]) -> [UInt8] {
        packet(request.rawValue, flags: 5, payload)
    }

    /// What a decent back end without protocol features says.
    static func decent(_ request: FrontendRequest) -> [UInt8] {
        switch request {
        case .getFeatures: reply(request, littleEndian(VirtioFeature.version1))
        case .getVringBase: reply(request, littleEndian(0, 0 as UInt32))
        default: []
        }
    }

    init(_ socket: UnixSocket, _ script: @escaping Script) throws {
        thread = try Thread(name: "test-scripted") {
            let connection = Connection(socket, nameOf: Connection.frontendNames)
            defer { socket.shutDown() }
            while socket.waitReadable(timeoutMilliseconds: 5000) {
                guard let message = try? connection.receive() else {
                    if socket.waitReadable(timeoutMilliseconds: 0) { return }
                    continue
                }
                guard let request = FrontendRequest(rawValue: message.header.request),
                    let answer = script(request, message.payload)
                else { return }
                if !answer.isEmpty { try? socket.send(answer) }
            }
        }
    }

    func join() { thread.join() }
}

@Suite("A front end with a hostile back end")
struct HostileBackendTests {
    /// By default there is so much time that none that answers is late.
    /// - Parameters:
    ///   - reply: milliseconds for each answer.
    ///   - handshake: milliseconds for all.
    private func attempt(
        reply: UInt64 = 20_000, handshake: UInt64 = 20_000,
        _ script: @escaping ScriptedBackend.Script
    ) throws -> (error: FrontendError?, milliseconds: UInt64) {
        let loop = try EventLoop()
        var options = FrontendOptions(.supervised, deviceID: VirtioDeviceID(42))
        options.configSize = 16
        options.replyTimeoutMilliseconds = reply
        options.handshakeTimeoutMilliseconds = handshake
        let frontend = Frontend(options, on: loop)
        let (near, far) = try UnixSocket.pair()
        let backend = try ScriptedBackend(far, script)
        let start = Clock.monotonic()
        var failure: FrontendError?
        do {
            try frontend.attach(near)
        } catch {
            failure = error
        }
        let time = (Clock.monotonic() - start) / 1_000_000
        near.shutDown()
        frontend.close()
        backend.join()
        return (failure, time)
    }

    @Test("a decent one is taken")
    func decent() throws {
        #expect(try attempt { request, _ in ScriptedBackend.decent(request) }.error == nil)
    }

    @Test(
        "nonsense is reported with the field that is wrong",
        arguments: [
            (packet(2, flags: 5, littleEndian(0 as UInt64)), "request"),
            (packet(1, flags: 1, littleEndian(0 as UInt64)), "flags"),
            (packet(1, flags: 6, littleEndian(0 as UInt64)), "flags"),
            (packet(1, flags: 5, littleEndian(0 as UInt32)), "u64"),
            (packet(1, flags: 5, littleEndian(0, 0 as UInt64)), "size"),
            (littleEndian(1, 5, 5000 as UInt32), "size"),
            (packet(77, flags: 5), "request"),
        ] as [([UInt8], String)])
    func nonsense(answer: [UInt8], field: String) throws {
        let error = try attempt { _, _ in answer }.error
        #expect(error?.description.contains(": \(field): ") == true, "\(String(describing: error))")
    }

    @Test("silence ends after the timeout")
    func silence() throws {
        let (error, time) = try attempt(reply: 50, handshake: 200) { _, _ in [] }
        #expect(error?.description.contains("GET_FEATURES in time") == true)
        #expect(time < 2000)
    }

    @Test("dawdling ends with the handshake's limit")
    func dawdling() throws {
        let (error, time) = try attempt(reply: 50, handshake: 200) { request, _ in
            Clock.sleep(milliseconds: 30)
            return switch request {
            case .getFeatures:
                ScriptedBackend.reply(request, littleEndian(VirtioFeature.version1 | 1 << 30))
            case .getProtocolFeatures:
                ScriptedBackend.reply(request, littleEndian(1 << 3 as UInt64))
            default: ScriptedBackend.reply(request, littleEndian(0 as UInt64))
            }
        }
        #expect(error != nil || time < 200)
        #expect(time < 2000)
    }

    @Test("a device without queues is refused")
    func noQueues() throws {
        let (error, _) = try attempt { request, _ in
            switch request {
            case .getFeatures:
                ScriptedBackend.reply(request, littleEndian(VirtioFeature.version1 | 1 << 30))
            // MQ.
            case .getProtocolFeatures: ScriptedBackend.reply(request, littleEndian(1 as UInt64))
            case .getQueueNum: ScriptedBackend.reply(request, littleEndian(0 as UInt64))
            default: []
            }
        }
        #expect(error?.description.contains("no queues") == true)
    }

    @Test("an end in the middle of a message is reported")
    func cut() throws {
        let (error, _) = try attempt(reply: 50, handshake: 200) { request, _ in
            request == .getFeatures
                ? Array(packet(1, flags: 5, littleEndian(0 as UInt64)).dropLast()) : nil
        }
        #expect(error != nil)
    }

    @Test("a configuration space of the wrong size is refused")
    func config() throws {
        let (error, _) = try attempt { request, _ in
            switch request {
            case .getFeatures:
                ScriptedBackend.reply(request, littleEndian(VirtioFeature.version1 | 1 << 30))
            case .getProtocolFeatures:
                ScriptedBackend.reply(request, littleEndian(1 << 9 as UInt64))
            case .getConfig:
                ScriptedBackend.reply(request, littleEndian(0, 4, 0 as UInt32) + [0, 0, 0, 0])
            default: []
            }
        }
        #expect(error?.description.contains("config size") == true)
    }

    @Test("an empty configuration space is a refusal")
    func noConfig() throws {
        let (error, _) = try attempt { request, _ in
            switch request {
            case .getFeatures:
                ScriptedBackend.reply(request, littleEndian(VirtioFeature.version1 | 1 << 30))
            case .getProtocolFeatures:
                ScriptedBackend.reply(request, littleEndian(1 << 9 as UInt64))
            case .getConfig: ScriptedBackend.reply(request, [])
            default: []
            }
        }
        #expect(error?.description.contains("refused GET_CONFIG") == true)
    }

    @Test("events that it has filled hold nobody up when another one comes")
    func fullEvents() throws {
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.supervised, deviceID: VirtioDeviceID(42)), on: loop)
        let scratch = try ScratchMemory([(start: 1 << 20, size: 1 << 20)])
        let driver = DriverQueue(scratch, size: 16, features: VirtioFeature.version1)
        let (kick, call) = try (EventFD(), EventFD())
        // Neither touches the events: one of ours would make them non-blocking again.
        func attach() throws -> (UnixSocket, ScriptedBackend) {
            let (near, far) = try UnixSocket.pair()
            let backend = try ScriptedBackend(far) { request, _ in ScriptedBackend.decent(request) }
            try frontend.attach(near)
            return (near, backend)
        }
        let (first, old) = try attach()
        try frontend.setFeatures(VirtioFeature.version1)
        try frontend.startQueue(0, driver.setup(scratch.memory, kick: kick, call: call))
        first.shutDown()
        #expect(loop.run(timeoutMilliseconds: 5000) { frontend.state != .connected })
        old.join()
        var new: ScriptedBackend?
        #expect(try passesFullEvents(kick, call) { new = try attach().1 })
        #expect(kick.drain() && call.drain())
        frontend.close()
        new?.join()
    }

    @Test("a flood of requests on its own channel does not stretch the limits")
    func flood() throws {
        let loop = try EventLoop()
        var options = FrontendOptions(.supervised, deviceID: VirtioDeviceID(42))
        options.configSize = 16
        options.replyTimeoutMilliseconds = 100
        let frontend = Frontend(options, on: loop)
        let (near, far) = try UnixSocket.pair()
        let end = Clock.monotonic() + 3_000_000_000
        let change = packet(BackendRequest.configChangeMsg.rawValue)
        let many = (0..<64).flatMap { _ in change }
        let thread = try Thread(name: "test-flood") {
            let connection = Connection(far, nameOf: Connection.frontendNames)
            while Clock.monotonic() < end, far.waitReadable(timeoutMilliseconds: 1000) {
                guard let message = try? connection.receive() else { return }
                switch FrontendRequest(rawValue: message.header.request) {
                case .getFeatures:
                    try? far.send(
                        packet(1, flags: 5, littleEndian(VirtioFeature.version1 | 1 << 30)))
                case .getProtocolFeatures:
                    // BACKEND_REQ, CONFIG and REPLY_ACK.
                    try? far.send(packet(15, flags: 5, littleEndian(0x228 as UInt64)))
                case .setBackendReqFD:
                    guard let channel = try? UnixSocket(adopting: message.fds[0]) else { return }
                    try? far.send(packet(21, flags: 5, littleEndian(0 as UInt64)))
                    // GET_CONFIG is never answered.
                    while Clock.monotonic() < end, (try? channel.send(many)) != nil {}
                default:
                    try? far.send(
                        packet(message.header.request, flags: 5, littleEndian(0 as UInt64)))
                }
            }
        }
        #expect(throws: FrontendError.self) { try frontend.attach(near) }
        #expect(Clock.monotonic() < end)
        near.shutDown()
        frontend.close()
        thread.join()
    }

    @Test("a message that nobody asked for ends the connection")
    func unasked() throws {
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.supervised, deviceID: VirtioDeviceID(42)), on: loop)
        let (near, far) = try UnixSocket.pair()
        let backend = try ScriptedBackend(far) { request, _ in ScriptedBackend.decent(request) }
        try frontend.attach(near)
        try far.send(packet(1, flags: 5, littleEndian(0 as UInt64)))
        let isLost = loop.run { frontend.state != .connected }
        #expect(isLost)
        near.shutDown()
        backend.join()
    }

    @Test("one that dies in the midst of a request stalls the device only")
    func deathInRequest() throws {
        let pairing = try Pairing()
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        pairing.backend.kill()
        // The front end has not noticed yet.
        #expect(pairing.frontend.state == .connected)
        let state = pairing.frontend.stopQueue(0)
        #expect(state == QueueState(nextAvailable: 1, nextUsed: 1))
        #expect(pairing.frontend.state != .connected)
    }
}
