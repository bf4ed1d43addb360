import CLinux
import Core
import Glibc
import Synchronization
import TestSupport
import Testing
import VhostUser

@Suite("A front end with a back-end server")
struct FrontendTests {
    @Test(
        "finds out how long the configuration space of an unknown device is",
        arguments: [0, 4, 16, 60, 252, 256])
    func configSize(size: Int) throws {
        let loop = try EventLoop()
        let (near, far) = try UnixSocket.pair()
        let contents = (0..<size).map { UInt8($0) }
        let backend = try BackendThread(.connected(far)) {
            $0.config = contents
            $0.isStrict = true
        }
        defer { backend.end() }
        let frontend = Frontend(FrontendOptions(.supervised, deviceID: .init(63)), on: loop)
        try frontend.attach(near)
        #expect(frontend.readConfig(offset: 0, count: 4096) == contents)
        frontend.close()
    }

    @Test("a network back end without a configuration space moves frames, and no more")
    func framesOnly() throws {
        let loop = try EventLoop()
        let (near, far) = try UnixSocket.pair()
        let frames: UInt64 = 1 << 15
        // An address, a state, a control queue, several pairs.
        let interface: UInt64 = 1 << 5 | 1 << 16 | 1 << 17 | 1 << 22
        let backend = try BackendThread(.connected(far), hidden: .config) {
            $0.features |= frames | interface
        }
        defer { backend.end() }
        let frontend = Frontend(FrontendOptions(.supervised, deviceID: .net), on: loop)
        try frontend.attach(near)
        #expect(frontend.queueCount == 2)
        #expect(frontend.features & (frames | interface) == frames)
        frontend.close()
    }

    @Test("shows the back end's device")
    func device() throws {
        let pairing = try Pairing()
        #expect(pairing.frontend.queueCount == 2)
        #expect(pairing.frontend.features & Pairing.Ring.packed.features != 0)
        #expect(pairing.frontend.features & VhostFeature.all == 0)
        #expect(pairing.frontend.readConfig(offset: 0, count: 16) == Array(0..<16))
        #expect(pairing.frontend.readConfig(offset: 14, count: 8) == [14, 15])
        #expect(pairing.frontend.readConfig(offset: 16, count: 1) == [])
        #expect(pairing.states == [.connected])
    }

    @Test("lets requests through", arguments: Pairing.Ring.allCases)
    func requests(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for round in 1...40 {
            for _ in 0..<(round % 7 + 1) { pairing.send(round) }
            #expect(try pairing.finishes())
        }
    }

    @Test("starts a ring on its first kick only")
    func startOnKick() throws {
        let pairing = try Pairing()
        try pairing.start()
        pairing.send(mustKick: false)
        Clock.sleep(milliseconds: 20)
        pairing.backend.perform { #expect($0.device.starts == 0) }
        pairing.kick.signal()
        #expect(try pairing.finishes())
    }

    @Test("gives no address of its own away, and takes poisoned ones apart")
    func addresses() throws {
        let pairing = try Pairing()
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        let layout = pairing.driver.layout
        pairing.backend.perform { #expect($0.device.setups[0]?.layout == layout) }
    }

    @Test("stops a queue and goes on where it was", arguments: Pairing.Ring.allCases)
    func stopAndStart(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for _ in 0..<21 {
            pairing.send()
            #expect(try pairing.finishes())
        }
        let state = pairing.frontend.stopQueue(0)
        #expect(state == pairing.driver.state)
        pairing.backend.perform { #expect($0.device.runningQueues.isEmpty) }
        var setup = pairing.setup
        setup.state = state
        // Added and kicked while nobody listened.
        pairing.send()
        pairing.kick.drain()
        try pairing.frontend.startQueue(0, setup)
        #expect(try pairing.finishes())
    }

    @Test("writes and reads the configuration space, and hears of changes")
    func config() throws {
        let pairing = try Pairing()
        pairing.frontend.writeConfig(offset: 3, [0xaa, 0xbb])
        #expect(pairing.frontend.readConfig(offset: 2, count: 4) == [2, 0xaa, 0xbb, 5])
        pairing.backend.perform { #expect($0.device.config[3] == 0xaa) }
        var changes = 0
        pairing.frontend.onConfigChange = { changes += 1 }
        pairing.backend.perform {
            $0.device.config[0] = 0x77
            $0.server.configurationChanged()
        }
        #expect(pairing.loop.run { changes == 1 })
        #expect(pairing.frontend.readConfig(offset: 0, count: 1) == [0x77])
        // Outside the space: ignored.
        pairing.frontend.writeConfig(offset: 15, [1, 2])
        pairing.frontend.writeConfig(offset: -1, [1])
        #expect(pairing.frontend.state == .connected)
    }

    @Test("resets the device and keeps the session", arguments: Pairing.Ring.allCases)
    func reset(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        for round in 1...3 {
            try pairing.start()
            for _ in 0..<round { pairing.send() }
            #expect(try pairing.finishes())
            pairing.frontend.reset()
            pairing.driver = DriverQueue(
                pairing.scratch, size: 16, features: ring.features, tableSize: 4)
            pairing.kick.drain()
            pairing.call.drain()
        }
        pairing.backend.perform { #expect($0.device.resets == 3) }
        #expect(pairing.states == [.connected])
    }

    @Test("does without what a plain back end lacks", arguments: Pairing.Ring.allCases)
    func plainBackend(ring: Pairing.Ring) throws {
        let pairing = try Pairing(
            .split,
            hidden: [
                .config, .replyAck, .inflight, .status, .resetDevice, .memorySlots,
                .backendRequests, .logSharedMemory, .multiQueue,
            ])
        #expect(pairing.frontend.queueCount == 1)
        #expect(pairing.frontend.features & VirtioFeature.packedRing == 0)
        try pairing.start()
        for _ in 0..<5 { pairing.send() }
        #expect(try pairing.finishes())
        pairing.frontend.reset()
        try pairing.replaceBackend()
    }

    @Test("refuses rings that are not in guest memory, and features that were not offered")
    func refusals() throws {
        let pairing = try Pairing()
        #expect(throws: VirtioDeviceError.self) {
            try pairing.frontend.setFeatures(VirtioFeature.accessPlatform)
        }
        try pairing.frontend.setFeatures(pairing.ring.features)
        var setup = pairing.setup
        setup.layout.device = GuestAddress(0x1f_fffc)
        #expect(throws: VirtioDeviceError.self) { try pairing.frontend.startQueue(0, setup) }
        #expect(throws: VirtioDeviceError.self) {
            try pairing.frontend.startQueue(2, pairing.setup)
        }
        try pairing.frontend.startQueue(0, pairing.setup)
        pairing.send()
        #expect(try pairing.finishes())
    }

    @Test("reports a queue that the driver has broken, while others go on")
    func brokenQueue() throws {
        let pairing = try Pairing()
        try pairing.start()
        let other = DriverQueue(pairing.scratch, size: 8, features: pairing.ring.features)
        let otherKick = try EventFD()
        try pairing.frontend.startQueue(
            1, other.setup(pairing.scratch.memory, kick: otherKick, call: nil))
        var errors: [Int] = []
        pairing.frontend.onQueueError = { errors.append($0) }
        // An index that is too far ahead.
        try pairing.scratch.memory.write(
            GuestAddress(other.layout.driver.rawValue + 2), 1000 as UInt16)
        otherKick.signal()
        #expect(pairing.loop.run { !errors.isEmpty })
        #expect(errors == [1])
        pairing.send()
        #expect(try pairing.finishes())
    }

    @Test(
        "gives more than eight regions to a back end, and more or fewer to a queue that goes on",
        arguments: Pairing.Ring.allCases)
    func memory(ring: Pairing.Ring) throws {
        let windows = (0..<12).map { (start: UInt64($0) << 24, size: 0x10000 as UInt64) }
        let pairing = try Pairing(ring, windows: windows)
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        // The thirteenth holds the next request's buffers.
        let more = try ScratchMemory([(start: 1 << 32, size: 0x10000)])
        let all = try GuestMemory(pairing.scratch.memory.regions + more.memory.regions)
        try pairing.goOn(with: all)
        #expect(pairing.backend.waits { $0.setups[0]?.memory.regions.count == 13 })
        let buffer = more.buffer(4)
        #expect(
            pairing.driver.add(readable: [more.place([1, 2, 3, 4])], writable: [buffer], token: 0))
        if pairing.driver.publish() { pairing.kick.signal() }
        #expect(
            pairing.backend.waits { $0.log.last == [1, 2, 3, 4] })
        #expect(try pairing.driver.popUsed()?.token == 0)
        #expect(more.bytes(buffer) == [254, 253, 252, 251])
        try pairing.goOn(with: pairing.scratch.memory)
        #expect(pairing.backend.waits { $0.setups[0]?.memory.regions.count == 12 })
        pairing.send()
        #expect(try pairing.finishes())
    }

    @Test("records what the back end writes while it is asked to", arguments: Pairing.Ring.allCases)
    func dirtyLog(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        let file = try MemFD(name: "log", size: 4096)
        let fd = SharedFD(try file.fd.duplicate())
        let log = DirtyLog(try MemoryMapping(sharing: fd.rawValue, size: 4096))
        try pairing.frontend.startLogging(to: fd, size: 4096)
        let buffer = DriverBuffer(GuestAddress(0x18_0000), 0x1800)
        #expect(
            pairing.driver.add(
                readable: [pairing.scratch.place([UInt8](repeating: 1, count: 4000))],
                writable: [buffer], token: 0))
        if pairing.driver.publish() { pairing.kick.signal() }
        #expect(pairing.backend.waits { $0.log.count == 2 })
        #expect(try pairing.driver.popUsed()?.token == 0)
        // 4000 bytes were written, all in the first page; and the ring.
        #expect(log.isMarked(page: 0x180))
        #expect(!log.isMarked(page: 0x181))
        let ringPart =
            ring == .packed ? pairing.driver.layout.descriptors : pairing.driver.layout.device
        #expect(log.isMarked(page: ringPart.rawValue >> 12))
        try pairing.frontend.stopLogging()
        pairing.send(8)
        #expect(try pairing.finishes())
        #expect(!log.isMarked(page: 0x181))
    }

    @Test("refuses a back end that is not of virtio 1")
    func legacy() throws {
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.supervised, deviceID: .block), on: loop)
        let (near, far) = try UnixSocket.pair()
        let backend = try BackendThread(.connected(far)) {
            $0.features = VirtioFeature.indirectDescriptors
        }
        #expect(throws: FrontendError.self) { try frontend.attach(near) }
        backend.end()
    }

    @Test("finds a back end that listens, and says if there is none")
    func connect() throws {
        let folder = try TestFolder()
        let path = folder["socket"]
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.connect(path: path), deviceID: VirtioDeviceID(42)), on: loop)
        let error = #expect(throws: FrontendError.self) {
            try frontend.connect(timeoutMilliseconds: 20)
        }
        #expect(error?.description.contains(path) == true)
        let backend = try BackendThread(.listen(try UnixListener(path: path)))
        try frontend.connect()
        #expect(frontend.state == .connected)
        // The back end drops the connection, and takes the next.
        var states: [Frontend.State] = []
        frontend.onStateChange = { states.append($0) }
        backend.perform {
            $0.server.stop()
            $0.server.start()
        }
        #expect(loop.run { states.last == .connected })
        #expect(states.count == 2)
        frontend.close()
        backend.end()
    }

    @Test("waits for a new back end that does not listen yet, and says if none comes")
    func upgradeFromPath() throws {
        let folder = try TestFolder()
        let path = folder["socket"]
        let loop = try EventLoop()
        let frontend = Frontend(
            FrontendOptions(.connect(path: path), deviceID: VirtioDeviceID(42)), on: loop)
        // A socket that has its place already, but does not listen.
        let early = SharedFD(owning: try checking("socket", clinux_unix_socket()))
        try UnixListener.bind(early, at: path)
        let error = #expect(throws: FrontendError.self) {
            try frontend.upgradeFromPath(timeoutMilliseconds: 20)
        }
        #expect(error?.description.contains("\(path): Connection refused") == true)
        let backend = Lock<BackendThread?>(nil)
        let thread = try Thread(name: "late-backend") {
            Clock.sleep(milliseconds: 200)
            let new = try? BackendThread(.listen(UnixListener(path: path)))
            backend.withLock { $0 = new }
        }
        try frontend.upgradeFromPath()
        #expect(frontend.state == .connected)
        thread.join()
        frontend.close()
        backend.withLock { $0?.end() }
    }
}
