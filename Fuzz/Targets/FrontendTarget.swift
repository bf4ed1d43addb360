import Core
import Synchronization
import TestSupport
import VhostUser

/// Whole sessions of our front end with a hostile back end, over a socket pair.
struct FrontendTarget: FuzzTarget {
    static let name = "vhost-frontend"
    static let about = "the front end with a hostile back end"

    /// A device that is used as it should be, and one whose memory is logged.
    static let seeds: [[UInt8]] = [
        [0, 1, 9, 4, 2, 3, 0, 1], [0, 1, 5, 4, 1, 2, 6, 7, 10] as [UInt8],
    ].flatMap { verbs in
        [false, true].map { isPacked in
            FuzzSeed.make { seed in
                seed.put(isPacked)
                seed.choose(verbs.count - 1, of: 12)
                seed.put(verbs)
                seed.putZeroes(64)
            }
        }
    }
    static let testCount = 300

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let loop = try EventLoop()
        var options = FrontendOptions(.supervised, deviceID: VirtioDeviceID(42))
        options.configSize = 16
        options.replyTimeoutMilliseconds = 5
        options.handshakeTimeoutMilliseconds = 50
        options.sharesMemory = true
        let frontend = Frontend(options, on: loop)
        let scratch = try ScratchMemory(size: 1 << 16)
        let isPacked = input.flag()
        let verbs = input.take(1 + input.below(12))
        let (near, far) = try UnixSocket.pair()
        var backs = [(near, try HostileBackend(far, input))]
        defer {
            frontend.close()
            for (near, back) in backs {
                near.shutDown()
                back.join()
            }
        }
        let start = Clock.monotonic()
        guard (try? frontend.attach(near)) != nil else { return false }
        let ring = isPacked ? VirtioFeature.packedRing : 0
        let features = frontend.features & (VirtioFeature.version1 | ring)
        let driver = DriverQueue(scratch, size: 8, features: features)
        for verb in verbs {
            let queue = Int(verb >> 3) % 4
            switch verb & 7 {
            case 0: try? frontend.setFeatures(features)
            case 1: try? frontend.startQueue(queue, driver.setup(scratch.memory))
            case 2: _ = frontend.stopQueue(queue)
            case 3: frontend.reset()
            case 4: frontend.writeConfig(offset: queue * 4, [1, 2, 3, 4])
            case 5:
                let log = SharedFD(try MemFD(name: "log", size: 4096).fd.duplicate())
                try? frontend.startLogging(to: log, size: 4096)
            case 6: try? frontend.stopLogging()
            case 7 where queue == 1 && backs.count < 4:
                let (near, far) = try UnixSocket.pair()
                backs.append((near, try HostileBackend(far, input)))
                try? frontend.upgrade(to: near)
            default: loop.runOnce(timeoutMilliseconds: 0)
            }
            let config = frontend.readConfig(offset: 0, count: 64)
            try require(config.count <= 16, "the configuration space has \(config.count) bytes")
        }
        let time = (Clock.monotonic() &- start) / 1_000_000
        try require(time < 8000, "the front end waited for \(time) ms")
        return true
    }
}

/// Answers every request on a thread of its own: decently, or with what the input makes of it.
private final class HostileBackend {
    private let thread: Thread

    init(_ socket: UnixSocket, _ input: FuzzInput) throws {
        let state = Mutex(Session(socket, input))
        thread = try Thread(name: "fuzz-backend") { state.withLock { $0.serve() } }
    }

    func join() { thread.join() }
}

private struct Session: Sendable {
    private let socket: UnixSocket
    private var input: FuzzInput
    private var channel: UnixSocket?
    /// All that the front end knows, but for what the input takes away.
    private let protocolFeatures: UInt64

    init(_ socket: UnixSocket, _ input: FuzzInput) {
        self.socket = socket
        var input = input
        protocolFeatures = 0x49f62b & ~(input.flag() ? UInt64(input.number(UInt32.self)) : 0)
        self.input = input
    }

    mutating func serve() {
        let connection = Connection(socket, nameOf: Connection.frontendNames)
        defer { socket.shutDown() }
        while socket.waitReadable(timeoutMilliseconds: 5000) {
            let message: Message?
            do { message = try connection.receive() } catch { return }
            guard let message else { continue }
            if message.header.request == FrontendRequest.setBackendReqFD.rawValue,
                let fd = message.fds.first
            {
                channel = try? UnixSocket(adopting: fd)
            }
            guard (try? answer(message)) != nil else { return }
        }
    }

    private mutating func answer(_ message: Message) throws {
        if let channel, input.rarely(8) { try? useChannel(channel) }
        guard let request = FrontendRequest(rawValue: message.header.request) else { return }
        if request == .setDeviceStateFD, let fd = message.fds.first {
            // The end of a socket, which both may write to.
            try? UnixSocket(adopting: fd).send(input.take(input.below(100)), timeoutMilliseconds: 1)
        }
        guard request.rule.reply != nil || message.header.needsReply else { return }
        var fds: [SharedFD] = []
        if request == .getInflightFD || input.rarely(64) {
            for _ in 0..<(input.rarely(16) ? input.below(10) : 1) {
                fds.append(SharedFD(try MemFD(name: "fuzz", size: 0x8000).fd.duplicate()))
            }
        }
        var bytes = Message(
            request: message.header.request, flags: 5, payload: decentPayload(request, message)
        ).bytes
        switch input.below(32) {
        case 26: bytes.removeLast(input.below(bytes.count))
        case 27: bytes += input.take(input.below(40))
        case 28: bytes = input.take(1 + input.below(60))
        case 29, 30: bytes[input.below(bytes.count)] = input.byte()
        case 31: return
        default: break
        }
        if !bytes.isEmpty { try socket.send(bytes, fds: fds, timeoutMilliseconds: 100) }
    }

    private mutating func decentPayload(_ request: FrontendRequest, _ message: Message) -> [UInt8] {
        let isOdd = input.rarely(16)
        switch request {
        case .getFeatures:
            let offered = VirtioFeature.version1 | VirtioFeature.packedRing | VhostFeature.all
            return Payload.u64(isOdd ? input.edge() : offered).bytes
        case .getProtocolFeatures:
            return Payload.u64(isOdd ? input.edge() : protocolFeatures).bytes
        case .getQueueNum: return Payload.u64(isOdd ? input.edge() : 2).bytes
        case .getMaxMemSlots: return Payload.u64(isOdd ? input.edge() : 8).bytes
        case .getConfig: return isOdd ? input.take(40) : message.payload
        case .getVringBase, .getVringBaseSkipDrain:
            return Payload.vringState(
                VringState(index: isOdd ? input.number() : 0, value: UInt32(input.byte()))
            ).bytes
        case .getInflightFD:
            return Payload.inflight(
                InflightDescription(
                    mmapSize: isOdd ? input.edge() : 0x8000,
                    mmapOffset: isOdd ? input.edge() : 0, queueCount: 2, queueSize: 8)
            ).bytes
        case .getShmemConfig:
            return Payload.sharedMemoryConfig(isOdd ? [input.edge(), 0, 4096] : [1 << 20]).bytes
        case .setLogBase: return Payload.u64(0).bytes
        case .setDeviceStateFD: return Payload.u64(isOdd ? input.edge() : 0x100).bytes
        default: return Payload.u64(isOdd ? 1 : 0).bytes
        }
    }

    /// A request, or what is none, on the back end's own channel.
    private mutating func useChannel(_ channel: UnixSocket) throws {
        let request = input.pick(BackendRequest.allCases)
        var bytes = Message(
            request: request.rawValue, flags: UInt32(input.byte() & 15),
            payload: input.take(input.below(48))
        ).bytes
        var fds: [SharedFD] = []
        if input.flag() { bytes = Message(request: BackendRequest.configChangeMsg.rawValue).bytes }
        if input.flag() {
            let message = mapping()
            bytes = message.bytes
            let wanted = message.header.request == BackendRequest.shmemMap.rawValue ? 1 : 0
            for _ in 0..<(input.rarely(8) ? input.below(3) : wanted) {
                fds.append(SharedFD(try MemFD(name: "fuzz", size: 0x8000).fd.duplicate()))
            }
        }
        if input.rarely(8) { bytes = input.take(1 + input.below(40)) }
        if !bytes.isEmpty { try channel.send(bytes, fds: fds, timeoutMilliseconds: 1) }
    }

    /// A request to show a file in the device's memory, or not to.
    private mutating func mapping() -> Message {
        func place(_ input: inout FuzzInput) -> UInt64 {
            input.rarely(8) ? input.edge() : UInt64(input.byte()) << 12
        }
        let map = SharedMemoryMap(
            regionID: input.rarely(8) ? input.byte() : 0, fdOffset: place(&input),
            offset: place(&input), size: place(&input),
            flags: input.rarely(8) ? input.edge() : UInt64(input.byte() & 1))
        return Message(
            request: input.flag() ? 9 : 10, flags: input.flag() ? 9 : 1,
            payload: Payload.sharedMemoryMap(map).bytes)
    }
}
