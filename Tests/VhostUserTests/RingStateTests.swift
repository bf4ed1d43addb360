import Core
import TestSupport
import Testing
import VhostUser

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
        try rig.run()
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
        #expect(rig.serves())
    }

    @Test("are all enabled by features without those of the protocol")
    func withoutProtocolFeatures() throws {
        let rig = try RingRig(isNegotiating: false)
        try rig.peer.send(.setOwner)
        try rig.peer.send(.setFeatures, littleEndian(VirtioFeature.version1))
        try rig.sendMemory()
        try rig.sendRing()
        try rig.sendKick()
        #expect(rig.serves())
    }

    @Test("start at once where there is no kick, and are stopped by GET_VRING_BASE")
    func polled() throws {
        let rig = try RingRig()
        try rig.runPolled()
        #expect(rig.device.runningQueues == [0])
        #expect(rig.device.setups[0]?.kick == nil)
        _ = rig.add()
        rig.device.serve(0)
        #expect(try rig.base() == littleEndian(0, 1 as UInt32))
        #expect(rig.device.runningQueues.isEmpty)
    }

    @Test("stay stopped after GET_VRING_BASE, until they get another kick descriptor")
    func stopped() throws {
        let rig = try RingRig()
        try rig.run()
        #expect(rig.serves())
        #expect(try rig.base() == littleEndian(0, 1 as UInt32))
        _ = rig.add()
        rig.kick.signal()
        rig.loop.runOnce(timeoutMilliseconds: 20)
        #expect(rig.device.runningQueues.isEmpty)
        try rig.peer.send(.setVringBase, littleEndian(0, 1 as UInt32))
        try rig.sendKick()
        #expect(rig.isFinished())
    }

    @Test("say where they stand: both positions of a packed one")
    func packedBase() throws {
        let rig = try RingRig(
            features: VirtioFeature.version1 | VirtioFeature.packedRing
                | VhostFeature.protocolFeatures)
        #expect(try rig.base() == littleEndian(0, 0x8000_8000 as UInt32))
        try rig.peer.send(.setVringBase, littleEndian(0, 0x8003_0005 as UInt32))
        #expect(try rig.base() == littleEndian(0, 0x8003_0005 as UInt32))
    }

    @Test("take another call descriptor while they run, without a stop")
    func callOnTheFly() throws {
        let rig = try RingRig()
        try rig.run()
        #expect(rig.serves())
        #expect(rig.call.drain())
        let other = try EventFD()
        try rig.peer.send(.setVringCall, littleEndian(0 as UInt64), fds: [other.fd])
        try rig.settle()
        #expect(rig.serves())
        #expect(other.drain())
        #expect(!rig.call.drain())
        #expect(rig.device.starts == 1)
        try rig.peer.send(.setVringCall, littleEndian(0x100 as UInt64))
        try rig.settle()
        #expect(rig.device.setups[0]?.call == nil)
    }

    @Test("go on in another memory table")
    func memoryOnTheFly() throws {
        let rig = try RingRig()
        try rig.run()
        #expect(rig.serves())
        try rig.sendMemory()
        #expect(rig.serves())
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
            littleEndian(0, 0 as UInt32)
                + littleEndian(
                    layout.descriptors.rawValue + rig.offset, 0x1000 as UInt64,
                    layout.driver.rawValue + rig.offset, 0))
        try rig.peer.send(.setVringNum, littleEndian(0, 8 as UInt32))
        try rig.peer.send(.setVringErr, littleEndian(0 as UInt64), fds: [rig.error.fd])
        try rig.enable()
        try rig.sendKick()
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
        #expect(rig.device.runningQueues.isEmpty)
        try rig.sendRing()
        #expect(rig.isFinished())
    }

    @Test("get another chance with another size")
    func resized() throws {
        let rig = try RingRig()
        try rig.run()
        // Not a power of two, which a split ring must be.
        try rig.peer.send(.setVringNum, littleEndian(0, 6 as UInt32))
        _ = rig.add()
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
        try rig.peer.send(.setVringNum, littleEndian(0, 8 as UInt32))
        #expect(rig.isFinished())
    }

    @Test("that their driver breaks signal their error")
    func brokenByDriver() throws {
        let rig = try RingRig()
        try rig.run()
        try rig.scratch.memory.write(
            GuestAddress(rig.driver.layout.driver.rawValue + 2), 9 as UInt16)
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
    }

    @Test("wait for no event that a front end has filled")
    func fullEvents() throws {
        let rig = try RingRig()
        try rig.run()
        #expect(rig.serves())
        #expect(
            try passesFullEvents(rig.call) {
                try rig.sendMemory()
                try rig.settle()
            })
        #expect(rig.device.starts == 2)
        #expect(
            try passesFullEvents(rig.error) {
                try rig.scratch.memory.write(
                    GuestAddress(rig.driver.layout.driver.rawValue + 2), 99 as UInt16)
                rig.kick.signal()
                _ = rig.loop.run(timeoutMilliseconds: 300) { false }
            })
    }

    @Test("are stopped by a status of zero and by a reset")
    func resets() throws {
        let rig = try RingRig()
        for request in [FrontendRequest.setStatus, .resetDevice] {
            try rig.runPolled()
            #expect(rig.device.runningQueues == [0])
            #expect(
                try rig.peer.ask(.setStatus, littleEndian(15 as UInt64), needsReply: true)
                    == littleEndian(0 as UInt64))
            #expect(try rig.peer.ask(.getStatus) == littleEndian(15 as UInt64))
            try rig.peer.send(request, request == .setStatus ? littleEndian(0 as UInt64) : [])
            #expect(try rig.peer.ask(.getStatus) == littleEndian(0 as UInt64))
            #expect(rig.device.runningQueues.isEmpty)
        }
        #expect(rig.device.resets == 1)
    }

    @Test("are stopped, and the device is reset, when the front end goes")
    func disconnect() throws {
        let rig = try RingRig()
        try rig.runPolled()
        #expect(rig.device.runningQueues == [0])
        rig.peer.socket.shutDown()
        let isGone = rig.loop.run { !rig.server.server.isConnected }
        #expect(isGone)
        #expect(rig.device.runningQueues.isEmpty)
        #expect(rig.device.resets == 1)
    }
}
