import Core
import TestSupport
import Testing
import VhostUser

@Suite("Kicks and calls that are messages")
struct InBandTests {
    private static let agreed = ProtocolFeatures([
        .backendRequests, .replyAck, .inBandNotifications,
    ])

    @Test("serve a driver, also with another back end", arguments: Pairing.Ring.allCases)
    func roundTrip(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring, notifiesInBand: true)
        try pairing.start()
        for _ in 0..<3 {
            for _ in 0..<4 { pairing.send() }
            #expect(try pairing.finishes())
            // The device has no event of the front end's.
            pairing.backend.perform {
                #expect($0.device.setups[0]?.kick != nil && $0.device.setups[0]?.call != nil)
            }
            try pairing.replaceBackend()
        }
        pairing.send()
        try pairing.upgradeBackend()
        #expect(try pairing.finishes())
        #expect(pairing.frontend.stopQueue(0) == pairing.driver.state)
    }

    @Test("start a ring, and come back over the channel")
    func messages() throws {
        let rig = try RingRig(isNegotiating: false)
        let channel = try negotiate(rig)
        try rig.sendMemory()
        try configure(rig)
        try rig.enable()
        let reply = rig.add()
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
        let kick = littleEndian(0, 0 as UInt32)
        #expect(try rig.peer.ask(.vringKick, kick, needsReply: true) == littleEndian(0 as UInt64))
        #expect(rig.isFinished())
        #expect(rig.scratch.bytes(reply) == [0xf0])
        #expect(try next(rig, channel) == littleEndian(4, 1, 8, 0, 0 as UInt32))
        _ = try rig.base()
        _ = rig.add()
        try rig.settle()
        #expect(rig.device.runningQueues.isEmpty)
    }

    @Test("tell of a ring that cannot be served")
    func error() throws {
        let rig = try RingRig(isNegotiating: false)
        let channel = try negotiate(rig)
        try rig.sendMemory()
        try configure(rig, descriptors: 1)
        try rig.enable()
        _ = try rig.peer.ask(.vringKick, littleEndian(0, 0 as UInt32), needsReply: true)
        #expect(try next(rig, channel) == littleEndian(5, 1, 8, 0, 0 as UInt32))
    }

    @Test("give way to events that the front end names")
    func events() throws {
        let rig = try RingRig(isNegotiating: false)
        let channel = try negotiate(rig)
        try rig.run()
        #expect(rig.serves())
        #expect(rig.call.drain())
        #expect(try channel.receive(upTo: 64) == nil)
    }

    @Test("are refused with a number, for queues that are not there, and without what they need")
    func refusals() throws {
        let rig = try RingRig(isNegotiating: false)
        _ = try negotiate(rig)
        for payload in [littleEndian(0, 1 as UInt32), littleEndian(9, 0 as UInt32)] {
            #expect(
                try rig.peer.ask(.vringKick, payload, needsReply: true)
                    == littleEndian(1 as UInt64))
        }
        let other = try ServerRig()
        for lacking in [ProtocolFeatures.backendRequests, .replyAck] {
            let peer = try other.connect()
            _ = try peer.ask(.getFeatures)
            try peer.send(
                .setProtocolFeatures, littleEndian(Self.agreed.subtracting(lacking).rawValue))
            #expect(peer.isClosed())
        }
    }

    /// Agrees on messages, and opens the channel.
    private func negotiate(_ rig: RingRig) throws -> UnixSocket {
        _ = try rig.peer.ask(.getFeatures)
        try rig.peer.send(.setProtocolFeatures, littleEndian(Self.agreed.rawValue))
        try rig.peer.send(.setOwner)
        try rig.peer.send(
            .setFeatures, littleEndian(VirtioFeature.version1 | VhostFeature.protocolFeatures))
        let (near, far) = try UnixSocket.pair()
        try rig.peer.send(.setBackendReqFD, fds: [far.fd])
        return near
    }

    /// Says all about a ring but its events.
    private func configure(_ rig: RingRig, descriptors: UInt64? = nil) throws {
        let layout = rig.driver.layout
        try rig.peer.send(.setVringNum, littleEndian(0, UInt32(layout.size)))
        try rig.peer.send(
            .setVringAddr,
            littleEndian(0, 0 as UInt32)
                + littleEndian(
                    descriptors.map { layout.descriptors.rawValue + rig.offset + $0 }
                        ?? layout.descriptors.rawValue + rig.offset,
                    layout.device.rawValue + rig.offset, layout.driver.rawValue + rig.offset,
                    0 as UInt64))
    }

    /// The next message on the channel.
    private func next(_ rig: RingRig, _ channel: UnixSocket) throws -> [UInt8] {
        var bytes: [UInt8] = []
        let hasCome = rig.loop.run(timeoutMilliseconds: 5000) {
            bytes += ((try? channel.receive(upTo: 20 - bytes.count)) ?? nil)?.bytes ?? []
            return bytes.count == 20
        }
        #expect(hasCome)
        return bytes
    }
}
