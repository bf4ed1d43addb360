import Core
import TestSupport
import Testing
import VhostUser

/// A raw front end with memory and a ring.
private final class RingRig {
    let server: ServerRig
    let peer: RawPeer
    let scratch: ScratchMemory
    let driver: DriverQueue
    let kick: EventFD
    let call: EventFD
    let error: EventFD
    /// User addresses are guest addresses plus this.
    let offset: UInt64 = 0x7000_0000_0000

    init(features: UInt64? = nil, isNegotiating: Bool = true) throws {
        server = try ServerRig()
        peer = try server.connect()
        scratch = try ScratchMemory()
        kick = try EventFD()
        call = try EventFD()
        error = try EventFD()
        let common = VirtioFeature.version1
        driver = DriverQueue(scratch, size: 8, features: common)
        if isNegotiating {
            try peer.negotiate(features: features ?? (common | VhostFeature.protocolFeatures))
        }
    }

    var loop: EventLoop { server.loop }
    var device: EchoDevice { server.device }

    func sendMemory() throws {
        let region = scratch.memory.regions[0]
        let file = try #require(region.file)
        try peer.send(
            .setMemTable,
            bytes(1, 0 as UInt32)
                + bytes(
                    region.start.rawValue, region.size, region.start.rawValue + offset,
                    0 as UInt64),
            fds: [file])
    }

    func sendRing(flags: UInt32 = 0, log: UInt64 = 0) throws {
        let layout = driver.layout
        try peer.send(.setVringNum, bytes(0, UInt32(layout.size)))
        try peer.send(
            .setVringAddr,
            bytes(0, flags)
                + bytes(
                    layout.descriptors.rawValue + offset, layout.device.rawValue + offset,
                    layout.driver.rawValue + offset, log))
        try peer.send(.setVringCall, bytes(0 as UInt64), fds: [call.fd])
        try peer.send(.setVringErr, bytes(0 as UInt64), fds: [error.fd])
    }

    func sendKick() throws { try peer.send(.setVringKick, bytes(0 as UInt64), fds: [kick.fd]) }

    func enable(_ value: UInt32 = 1) throws { try peer.send(.setVringEnable, bytes(0, value)) }

    func add() -> DriverBuffer {
        let reply = scratch.buffer(1)
        driver.add(readable: [scratch.place([0x0f])], writable: [reply])
        _ = driver.publish()
        return reply
    }

    /// Lets the server do what it has been sent.
    func settle() throws { _ = try peer.ask(.getFeatures) }

    func isFinished() -> Bool {
        loop.run(timeoutMilliseconds: 5000) { ((try? driver.popUsed()) ?? nil) != nil }
    }

    func base() throws -> [UInt8] { try peer.ask(.getVringBase, bytes(0, 0 as UInt32)) }
}

@Suite("The rings of a back-end server")
struct RingStateTests {
    @Test("are stopped and disabled at first, started by a kick, and then enabled")
    func startThenEnable() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
        try rig.enable()
        #expect(rig.isFinished())
        #expect(rig.call.drain())
        try rig.enable(0)
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
        _ = rig.add()
        rig.kick.signal()
        try rig.enable()
        #expect(rig.isFinished())
    }

    @Test("are enabled, and wait for their first kick")
    func enableThenStart() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
    }

    @Test("are all enabled by features without those of the protocol")
    func withoutProtocolFeatures() throws {
        let rig = try RingRig(isNegotiating: false)
        try rig.peer.send(.setOwner)
        try rig.peer.send(.setFeatures, bytes(VirtioFeature.version1))
        try rig.sendMemory()
        try rig.sendRing()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
    }

    @Test("start at once where there is no kick, and are stopped by GET_VRING_BASE")
    func polled() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.peer.send(.setVringKick, bytes(0x100 as UInt64))
        try rig.settle()
        #expect(rig.device.runningQueues == [0])
        #expect(rig.device.setups[0]?.kick == nil)
        _ = rig.add()
        rig.device.serve(0)
        #expect(try rig.base() == bytes(0, 1 as UInt32))
        #expect(rig.device.runningQueues.isEmpty)
    }

    @Test("stay stopped after GET_VRING_BASE, until they get another kick descriptor")
    func stopped() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
        #expect(try rig.base() == bytes(0, 1 as UInt32))
        _ = rig.add()
        rig.kick.signal()
        rig.loop.runOnce(timeoutMilliseconds: 20)
        #expect(rig.device.runningQueues.isEmpty)
        try rig.peer.send(.setVringBase, bytes(0, 1 as UInt32))
        try rig.sendKick()
        #expect(rig.isFinished())
    }

    @Test("say where they stand: both positions of a packed one")
    func packedBase() throws {
        let rig = try RingRig(
            features: VirtioFeature.version1 | VirtioFeature.packedRing
                | VhostFeature.protocolFeatures)
        #expect(try rig.base() == bytes(0, 0x8000_8000 as UInt32))
        try rig.peer.send(.setVringBase, bytes(0, 0x8003_0005 as UInt32))
        #expect(try rig.base() == bytes(0, 0x8003_0005 as UInt32))
    }

    @Test("take another call descriptor while they run, without a stop")
    func callOnTheFly() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
        #expect(rig.call.drain())
        let other = try EventFD()
        try rig.peer.send(.setVringCall, bytes(0 as UInt64), fds: [other.fd])
        try rig.settle()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
        #expect(other.drain())
        #expect(!rig.call.drain())
        #expect(rig.device.starts == 1)
        try rig.peer.send(.setVringCall, bytes(0x100 as UInt64))
        try rig.settle()
        #expect(rig.device.setups[0]?.call == nil)
    }

    @Test("go on in another memory table")
    func memoryOnTheFly() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
        try rig.sendMemory()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.isFinished())
        #expect(rig.device.starts == 2)
    }

    @Test("that cannot be served signal their error, and work once that is put right")
    func broken() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        // Before there is a size nobody can say that the ring does not fit.
        let layout = rig.driver.layout
        try rig.peer.send(
            .setVringAddr,
            bytes(0, 0 as UInt32)
                + bytes(
                    layout.descriptors.rawValue + rig.offset, 0x1000 as UInt64,
                    layout.driver.rawValue + rig.offset, 0))
        try rig.peer.send(.setVringNum, bytes(0, 8 as UInt32))
        try rig.peer.send(.setVringErr, bytes(0 as UInt64), fds: [rig.error.fd])
        try rig.enable()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
        #expect(rig.device.runningQueues.isEmpty)
        try rig.sendRing()
        #expect(rig.isFinished())
    }

    @Test("that their driver breaks signal their error")
    func brokenByDriver() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        try rig.scratch.memory.write(
            GuestAddress(rig.driver.layout.driver.rawValue + 2), 9 as UInt16)
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
    }

    @Test("are stopped by a status of zero and by a reset")
    func resets() throws {
        let rig = try RingRig()
        for request in [FrontendRequest.setStatus, .resetDevice] {
            try rig.sendMemory()
            try rig.sendRing()
            try rig.enable()
            try rig.peer.send(.setVringKick, bytes(0x100 as UInt64))
            try rig.settle()
            #expect(rig.device.runningQueues == [0])
            #expect(
                try rig.peer.ask(.setStatus, bytes(15 as UInt64), needsReply: true)
                    == bytes(0 as UInt64))
            #expect(try rig.peer.ask(.getStatus) == bytes(15 as UInt64))
            try rig.peer.send(request, request == .setStatus ? bytes(0 as UInt64) : [])
            #expect(try rig.peer.ask(.getStatus) == bytes(0 as UInt64))
            #expect(rig.device.runningQueues.isEmpty)
        }
        #expect(rig.device.resets == 1)
    }

    @Test("are stopped, and the device is reset, when the front end goes")
    func disconnect() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        try rig.sendRing()
        try rig.enable()
        try rig.peer.send(.setVringKick, bytes(0x100 as UInt64))
        try rig.settle()
        #expect(rig.device.runningQueues == [0])
        rig.peer.socket.shutDown()
        let isGone = rig.loop.run { !rig.server.server.isConnected }
        #expect(isGone)
        #expect(rig.device.runningQueues.isEmpty)
        #expect(rig.device.resets == 1)
    }

    @Test("get no log that does not cover memory or the used ring")
    func logChecks() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        let file = SharedFD(try MemFD(name: "log", size: 0x2000).fd.duplicate())
        // 2 MiB of memory need 64 bytes; the reply has no room for an error, so the connection ends.
        try rig.peer.send(.setLogBase, bytes(63, 0 as UInt64), fds: [file])
        #expect(rig.peer.isClosed())
    }

    @Test(
        "get no log that is not in its file",
        arguments: [
            (0x2001, 0), (0x1000, 0x1001), (1, UInt64.max), (UInt64.max, 1), (0, 0),
        ] as [(UInt64, UInt64)])
    func logRange(size: UInt64, offset: UInt64) throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "log", size: 0x2000).fd.duplicate())
        try rig.peer.send(.setLogBase, bytes(size, offset), fds: [file])
        #expect(rig.peer.isClosed())
    }

    @Test("get an area for what is in flight that fits their number and size")
    func inflightArea() throws {
        let rig = try RingRig()
        try rig.peer.send(
            .getInflightFD, bytes(0, 0 as UInt64) + bytes(2, 64 as UInt16) + [0, 0, 0, 0])
        let reply = try rig.peer.receive()
        #expect(reply.fds.count == 1)
        let payload = try Payload(
            .inflight, Array(reply.bytes.dropFirst(12)), message: "reply")
        guard case .inflight(let area) = payload else { return }
        #expect(area.queueCount == 2 && area.queueSize == 64)
        // 32 bytes and 32 for each entry, packed; less for split rings.
        #expect(area.mmapSize >= 2 * (32 + 64 * 32))
        #expect(
            try rig.peer.ask(.setInflightFD, payload.bytes, fds: reply.fds, needsReply: true)
                == bytes(0 as UInt64))
    }

    @Test(
        "get no area for what is in flight that makes no sense",
        arguments: [
            (0x1000, 0, 0, 64), (0x1000, 0, 257, 1), (0x1000, 0, 1, 0), (0x1000, 0, 1, 32769),
            (0x1000, 4, 1, 64), (0x100, 0, 1, 64), (0x3000, 0, 1, 64), (0x1000, UInt64.max, 1, 64),
            (UInt64.max, 0, 1, 64),
        ] as [(UInt64, UInt64, UInt16, UInt16)])
    func badInflight(size: UInt64, offset: UInt64, queues: UInt16, entries: UInt16) throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "inflight", size: 0x2000).fd.duplicate())
        let payload = bytes(size, offset) + bytes(queues, entries)
        #expect(
            try rig.peer.ask(.setInflightFD, payload, fds: [file], needsReply: true)
                == bytes(1 as UInt64))
    }

    @Test("larger than the area for what is in flight are refused")
    func inflightTooSmall() throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "inflight", size: 0x2000).fd.duplicate())
        try rig.sendMemory()
        try rig.peer.send(
            .setInflightFD, bytes(0x1000, 0 as UInt64) + bytes(1, 4 as UInt16), fds: [file])
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
    }
}
