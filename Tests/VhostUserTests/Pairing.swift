import Core
import Synchronization
import TestSupport
import Testing
import VhostUser

/// A back end with a thread of its own, because a front end waits for it.
// SAFETY: device and server are used on the loop's thread only.
final class BackendThread: @unchecked Sendable {
    private let loop: EventLoop
    private var thread: Thread?
    let device: EchoDevice
    let server: BackendServer

    init(
        _ role: BackendServer.Role, hidden: ProtocolFeatures = [],
        prepare: (EchoDevice) -> Void = { _ in }
    ) throws {
        loop = try EventLoop()
        device = EchoDevice(on: loop)
        prepare(device)
        var options = BackendServer.Options()
        options.hidden = hidden
        server = BackendServer(device, on: loop, as: role, options: options)
        server.start()
        thread = try Thread(name: "test-backend") { [loop] in loop.run() }
    }

    /// Runs `body` on the back end's thread and waits for it.
    func perform(_ body: @escaping @Sendable (BackendThread) -> Void) {
        let isDone = Flag()
        loop.post {
            body(self)
            isDone.set()
        }
        while !isDone.isSet { Clock.sleep(milliseconds: 1) }
    }

    /// Whether `condition` holds soon.
    func waits(until condition: @escaping @Sendable (EchoDevice) -> Bool) -> Bool {
        for _ in 0..<5000 {
            let isTrue = Flag()
            perform { if condition($0.device) { isTrue.set() } }
            if isTrue.isSet { return true }
            Clock.sleep(milliseconds: 1)
        }
        return false
    }

    /// Ends without finishing anything, as a killed process does.
    func kill() {
        perform {
            $0.device.isDead = true
            $0.server.stop()
        }
        end()
    }

    func end() {
        guard thread != nil else { return }
        perform { $0.server.stop() }
        loop.quit()
        thread?.join()
        thread = nil
    }

    private final class Flag: Sendable {
        private let value = Atomic<Bool>(false)
        func set() { value.store(true, ordering: .releasing) }
        var isSet: Bool { value.load(ordering: .acquiring) }
    }
}

/// A driver, a front end and a back end, connected by socket pairs.
final class Pairing {
    enum Ring: CaseIterable, CustomTestStringConvertible {
        case split, packed

        var features: UInt64 {
            let common =
                VirtioFeature.version1 | VirtioFeature.indirectDescriptors
                | VirtioFeature.eventIndex
            return self == .packed ? common | VirtioFeature.packedRing : common
        }

        var testDescription: String { "\(self)" }
    }

    let loop: EventLoop
    let scratch: ScratchMemory
    let ring: Ring
    let hidden: ProtocolFeatures
    private(set) var backend: BackendThread
    let frontend: Frontend
    var driver: DriverQueue
    let kick: EventFD
    let call: EventFD
    var states: [Frontend.State] = []

    private var nextToken: UInt64 = 1
    private var open: [UInt64: (sent: [UInt8], reply: DriverBuffer)] = [:]
    /// The finished requests' tokens, in order.
    private(set) var finished: [UInt64] = []

    init(
        _ ring: Ring = .split, hidden: ProtocolFeatures = [], avoided: ProtocolFeatures = [],
        windows: [(start: UInt64, size: UInt64)] = [(start: 1 << 20, size: 1 << 20)],
        notifiesInBand: Bool = false, sharesMemory: Bool = false,
        prepare: (EchoDevice) -> Void = { _ in }
    ) throws {
        self.ring = ring
        self.hidden = hidden
        loop = try EventLoop()
        scratch = try ScratchMemory(windows)
        kick = try EventFD()
        call = try EventFD()
        // Each part has a page of its own, so that it shows which of them is in a dirty log.
        driver = DriverQueue(
            scratch, size: 16, features: ring.features, tableSize: 4, alignment: 4096)
        var options = FrontendOptions(.supervised, deviceID: VirtioDeviceID(42))
        options.configSize = 16
        options.avoided = avoided
        options.notifiesInBand = notifiesInBand
        options.sharesMemory = sharesMemory
        options.replyTimeoutMilliseconds = 2000
        frontend = Frontend(options, on: loop)
        let (near, far) = try UnixSocket.pair()
        backend = try BackendThread(.connected(far), hidden: hidden, prepare: prepare)
        frontend.onStateChange = { [unowned self] in states.append($0) }
        try frontend.attach(near)
    }

    deinit {
        frontend.close()
        backend.end()
    }

    var setup: QueueSetup { driver.setup(scratch.memory, kick: kick, call: call) }

    /// What a transport does when a driver comes up.
    func start() throws {
        try frontend.setFeatures(ring.features)
        try frontend.startQueue(0, setup)
    }

    /// The driver resets the queue and gives it another ring; what it had sent is forgotten.
    func resetQueue() throws {
        _ = frontend.stopQueue(0)
        driver = DriverQueue(
            scratch, size: 16, features: ring.features, tableSize: 4, alignment: 4096)
        open = [:]
        finished = []
        try frontend.startQueue(0, setup)
    }

    /// Stops the queue and lets it go on with other memory.
    func goOn(with memory: GuestMemory) throws {
        var setup = setup
        setup.state = frontend.stopQueue(0)
        setup.memory = memory
        try frontend.startQueue(0, setup)
    }

    /// The back end is killed, and another one takes over.
    func replaceBackend(prepare: (EchoDevice) -> Void = { _ in }) throws {
        loseBackend()
        try attachNewBackend(prepare: prepare)
    }

    /// The back end is killed, and the front end notices.
    func loseBackend() {
        backend.kill()
        let isLost = loop.run { frontend.state != .connected }
        #expect(isLost)
    }

    func attachNewBackend(
        hidden: ProtocolFeatures? = nil, prepare: (EchoDevice) -> Void = { _ in }
    ) throws {
        let (near, far) = try UnixSocket.pair()
        backend = try BackendThread(
            .connected(far), hidden: hidden ?? self.hidden, prepare: prepare)
        try frontend.attach(near)
    }

    /// Another back end takes over from one that works.
    func upgradeBackend(prepare: (EchoDevice) -> Void = { _ in }) throws {
        let (near, far) = try UnixSocket.pair()
        let new = try BackendThread(.connected(far), hidden: hidden, prepare: prepare)
        do {
            try frontend.upgrade(to: near)
        } catch {
            new.end()
            throw error
        }
        backend.end()
        backend = new
    }

    /// The driver sends a request of `count` bytes.
    @discardableResult
    func send(_ count: Int = 16, mustKick: Bool = true) -> UInt64 {
        let token = nextToken
        nextToken += 1
        let contents = (0..<count).map { UInt8(truncatingIfNeeded: token &* 31 &+ UInt64($0)) }
        let reply = scratch.buffer(count)
        let hasRoom = driver.add(
            readable: [scratch.place(contents)], writable: [reply], token: token)
        #expect(hasRoom)
        open[token] = (contents, reply)
        if driver.publish() && mustKick { kick.signal() }
        return token
    }

    /// The driver sends requests that the device takes and does not finish.
    func sendHeld(_ count: Int) {
        backend.perform { $0.device.isHolding = true }
        for _ in 0..<count { send() }
        #expect(backend.waits { $0.heldCount(0) == count })
    }

    /// Takes what the device has finished, and checks the contents.
    func collect() throws {
        while let used = try driver.popUsed() {
            let removed = open.removeValue(forKey: used.token)
            let request = try #require(removed)
            #expect(used.written == UInt32(request.sent.count))
            #expect(scratch.bytes(request.reply) == request.sent.map { ~$0 })
            finished.append(used.token)
        }
    }

    /// Whether everything that was sent comes back, with a call.
    func finishes(timeoutMilliseconds: UInt32 = 5000) throws -> Bool {
        var wasCalled = false
        let isDone = loop.run(timeoutMilliseconds: timeoutMilliseconds) {
            if call.drain() { wasCalled = true }
            repeat { try? collect() } while driver.enableCalls()
            if open.isEmpty && (wasCalled || call.drain()) { return true }
            Clock.sleep(milliseconds: 1)
            loop.post {}
            return false
        }
        return isDone
    }
}
