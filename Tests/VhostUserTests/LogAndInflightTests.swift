import Core
import TestSupport
import Testing
import VhostUser

@Suite("What a back-end server's rings note in shared memory")
struct LogAndInflightTests {
    @Test("a log that does not cover memory is refused")
    func logChecks() throws {
        let rig = try RingRig()
        try rig.sendMemory()
        let file = SharedFD(try MemFD(name: "log", size: 0x2000).fd.duplicate())
        // 2 MiB of memory need 64 bytes; the reply has no room for an error, so the connection
        // ends.
        try rig.peer.send(.setLogBase, littleEndian(63, 0 as UInt64), fds: [file])
        #expect(rig.peer.isClosed())
    }

    @Test("a change of the log is announced while there is one")
    func logEvent() throws {
        let features = VirtioFeature.version1 | VhostFeature.protocolFeatures
        let rig = try RingRig(features: features)
        let file = SharedFD(try MemFD(name: "log", size: 0x1000).fd.duplicate())
        let event = try EventFD()
        try rig.peer.send(.setLogFD, fds: [event.fd])
        #expect(
            try rig.peer.ask(.setLogBase, littleEndian(0x1000, 0 as UInt64), fds: [file]).count == 8
        )
        try rig.run()
        #expect(rig.serves())
        #expect(!event.drain())
        try rig.peer.send(.setFeatures, littleEndian(features | VhostFeature.logAll))
        try rig.settle()
        event.drain()
        #expect(rig.serves())
        #expect(event.drain())
        #expect(try passesFullEvents(event) { _ = rig.serves() })
        let other = try EventFD()
        try rig.peer.send(.setLogFD, fds: [other.fd])
        try rig.settle()
        event.drain()
        #expect(rig.serves())
        #expect(other.drain())
        #expect(!event.drain())
    }

    @Test(
        "a log that is not in its file is refused",
        arguments: [
            (0x2001, 0), (0x1000, 0x1001), (1, UInt64.max), (UInt64.max, 1), (0, 0),
        ] as [(UInt64, UInt64)])
    func logRange(size: UInt64, offset: UInt64) throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "log", size: 0x2000).fd.duplicate())
        try rig.peer.send(.setLogBase, littleEndian(size, offset), fds: [file])
        #expect(rig.peer.isClosed())
    }

    @Test("the area for what is in flight fits the number and size of the rings")
    func inflightArea() throws {
        let rig = try RingRig()
        try rig.peer.send(
            .getInflightFD,
            littleEndian(0, 0 as UInt64) + littleEndian(2, 64 as UInt16) + [0, 0, 0, 0])
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
                == littleEndian(0 as UInt64))
    }

    @Test(
        "an area for what is in flight that makes no sense is refused",
        arguments: [
            (0x1000, 0, 0, 64), (0x1000, 0, 257, 1), (0x1000, 0, 1, 0), (0x1000, 0, 1, 32769),
            (0x1000, 4, 1, 64), (0x100, 0, 1, 64), (0x3000, 0, 1, 64), (0x1000, UInt64.max, 1, 64),
            (UInt64.max, 0, 1, 64),
        ] as [(UInt64, UInt64, UInt16, UInt16)])
    func badInflight(size: UInt64, offset: UInt64, queues: UInt16, entries: UInt16) throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "inflight", size: 0x2000).fd.duplicate())
        let payload = littleEndian(size, offset) + littleEndian(queues, entries)
        #expect(
            try rig.peer.ask(.setInflightFD, payload, fds: [file], needsReply: true)
                == littleEndian(1 as UInt64))
    }

    @Test("a ring that is larger than the area for what is in flight is refused")
    func inflightTooSmall() throws {
        let rig = try RingRig()
        let file = SharedFD(try MemFD(name: "inflight", size: 0x2000).fd.duplicate())
        try rig.sendMemory()
        try rig.peer.send(
            .setInflightFD, littleEndian(0x1000, 0 as UInt64) + littleEndian(1, 4 as UInt16),
            fds: [file])
        try rig.sendRing()
        try rig.enable()
        try rig.sendKick()
        rig.kick.signal()
        #expect(rig.loop.run { rig.error.drain() })
    }
}
