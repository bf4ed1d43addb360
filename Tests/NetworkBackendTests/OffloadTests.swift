import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite("Checksums and segments in software") struct OffloadTests {
    private static let all =
        NetworkRig.mergeable | NetworkFeature.checksum | NetworkFeature.hostTSO4
        | NetworkFeature.hostTSO6 | NetworkFeature.hostUSO | NetworkFeature.guestChecksum

    private func pair(_ features: UInt64 = all) throws -> (NetworkRig, StreamPeer) {
        let (near, far) = try UnixSocket.pair()
        let rig = try NetworkRig("connected,fd=\(far.fd.rawValue)", features: features)
        try rig.start()
        return (rig, StreamPeer(near))
    }

    private static let packets: [TestPacket] = [
        TestPacket(data: pattern(1000)),
        TestPacket(flags: 0x91, data: pattern(1001)),
        TestPacket(tags: 1, options: 8, data: pattern(999)),
        TestPacket(isIPv6: true, data: pattern(1000)),
        TestPacket(isIPv6: true, tags: 2, options: 16, data: pattern(1001)),
        TestPacket(isUDP: true, data: pattern(1000)),
        TestPacket(isIPv6: true, isUDP: true, options: 8, data: pattern(1003)),
    ]

    private static func kind(_ packet: TestPacket) -> UInt8 {
        packet.isUDP ? 5 : packet.isIPv6 ? 4 : 1
    }

    @Test("a checksum is computed", arguments: packets, [1, 3, 40])
    func checksum(_ packet: TestPacket, _ pieces: Int) throws {
        let (rig, peer) = try pair()
        try rig.send(
            packet.unfinished, header: packet.header(kind: 0, size: 0), pieces: pieces,
            style: pieces > 3 ? .indirect : .direct)
        #expect(try peer.receive() == packet.finished)
        #expect(try rig.awaitSent()?.written == 0)
    }

    @Test("a packet is cut into segments", arguments: packets, [100, 333, 1000, 5000])
    func segments(_ packet: TestPacket, _ size: Int) throws {
        let (rig, peer) = try pair()
        for pieces in [1, 2, 7, 60] {
            try rig.send(
                packet.unfinished, header: packet.header(kind: Self.kind(packet), size: size),
                pieces: pieces, style: pieces > 2 ? .indirect : .direct)
            for segment in packet.segments(of: size) { #expect(try peer.receive() == segment) }
            #expect(try rig.awaitSent() != nil)
        }
    }

    @Test("the largest packets, in the usual segments and the smallest", arguments: [1448, 48])
    func large(_ size: Int) throws {
        let (rig, peer) = try pair()
        let packet = TestPacket(data: pattern(65_000))
        for _ in 0..<3 {
            try rig.send(packet.unfinished, header: packet.header(kind: 1, size: size))
        }
        for _ in 0..<3 {
            for segment in packet.segments(of: size) { #expect(try peer.receive() == segment) }
        }
        for _ in 0..<3 { #expect(try rig.awaitSent() != nil) }
    }

    @Test("over datagrams, each segment is one")
    func datagrams() throws {
        let folder = try TestFolder()
        let (a, b) = (folder["a"], folder["b"])
        let sender = try NetworkRig("dgram,local=\(a),remote=\(b)", features: Self.all)
        let receiver = try NetworkRig("dgram,local=\(b),remote=\(a)", features: Self.all)
        try sender.start()
        try receiver.start()
        for _ in 0..<10 { receiver.offer([2048]) }
        let packet = TestPacket(data: pattern(5000))
        try sender.send(packet.unfinished, header: packet.header(kind: 1, size: 1448))
        for segment in packet.segments(of: 1448) {
            #expect(try receiver.awaitFrame()?.frame == segment)
        }
    }

    /// What a driver may say, and what is wrong with it.
    static func hostile() -> [(String, header: [UInt8], frame: [UInt8])] {
        let tcp = TestPacket(data: pattern(1000))
        func change(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
            var frame = tcp.unfinished
            change(&frame)
            return frame
        }
        let header = tcp.header(kind: 1, size: 500)
        func other(_ index: Int, _ value: UInt8) -> [UInt8] {
            var changed = header
            changed[index] = value
            return changed
        }
        return [
            ("no segment size", tcp.header(kind: 1, size: 0), tcp.unfinished),
            (
                "tiny segments", tcp.header(kind: 1, size: 1),
                TestPacket(data: pattern(2000)).unfinished
            ),
            ("another version of IP", tcp.header(kind: 4, size: 500), tcp.unfinished),
            ("another protocol", tcp.header(kind: 5, size: 500), tcp.unfinished),
            ("an unknown kind", tcp.header(kind: 3, size: 500), tcp.unfinished),
            ("no checksum", other(0, 0), tcp.unfinished),
            ("another start", other(6, 30), tcp.unfinished),
            ("a start outside", other(7, 0xff), tcp.unfinished),
            ("no data", header, TestPacket(data: []).unfinished),
            ("no packet", header, Array(tcp.unfinished.prefix(20))),
            ("one byte", header, [1]),
            ("a short header of IP", header, change { $0[14] = 0x44 }),
            ("a long header of IP", header, change { $0[14] = 0x4f }),
            ("a fragment", header, change { $0[20] = 0x20 }),
            ("a short header of TCP", header, change { $0[46] = 0x40 }),
            ("too many tags", header, TestPacket(tags: 3, data: pattern(100)).unfinished),
            ("a checksum outside", tcp.header(kind: 0, size: 0), Array(tcp.unfinished.prefix(50))),
        ]
    }

    @Test("what makes no sense is dropped, and the queue goes on", arguments: 0..<hostile().count)
    func refused(_ index: Int) throws {
        let (rig, peer) = try pair()
        let (name, header, frame) = Self.hostile()[index]
        try rig.send(frame, header: header)
        #expect(try rig.awaitSent()?.written == 0, "\(name)")
        try rig.send(pattern(60))
        #expect(try peer.receive() == pattern(60), "\(name)")
    }

    @Test("flags that are not a driver's to set are ignored")
    func unknownFlags() throws {
        let packet = TestPacket(data: pattern(1000))
        var results: [[UInt8]] = []
        for flags in [1, 1 | 2 | 0x80] as [UInt8] {
            let (rig, peer) = try pair()
            var header = packet.header(kind: 0, size: 0)
            header[0] = flags
            try rig.send(packet.unfinished, header: header)
            results.append(try #require(try peer.receive()))
        }
        #expect(results[0] != packet.unfinished)
        #expect(results[0] == results[1])
    }

    @Test("what the driver has not accepted is not done")
    func unaccepted() throws {
        let (rig, peer) = try pair(NetworkRig.mergeable | NetworkFeature.checksum)
        let packet = TestPacket(data: pattern(1000))
        try rig.send(packet.unfinished, header: packet.header(kind: 1, size: 100))
        try rig.send(packet.unfinished, header: packet.header(kind: 0, size: 0))
        #expect(try peer.receive() == packet.finished)
    }

    @Test("checksums of what comes are checked", arguments: packets, [2048, 100])
    func received(_ packet: TestPacket, _ room: Int) throws {
        let (rig, peer) = try pair()
        for _ in 0..<60 { rig.offer([room]) }
        try peer.send(packet.finished)
        #expect(try rig.awaitFrame()?.header[0] == 2)
        // What is behind the packet is padding.
        try peer.send(packet.finished + [1, 2, 3])
        #expect(try rig.awaitFrame()?.header[0] == 2)
        var wrong = packet.finished
        wrong[wrong.count - 1] ^= 0x40
        try peer.send(wrong)
        let got = try rig.awaitFrame()
        #expect(got?.header[0] == 0)
        #expect(got?.frame == wrong)
        try peer.send(pattern(60))
        #expect(try rig.awaitFrame()?.header[0] == 0)
    }

    @Test("a driver that checks by itself is told nothing")
    func unchecked() throws {
        let (rig, peer) = try pair(NetworkRig.mergeable)
        rig.offer([2048])
        try peer.send(TestPacket(data: pattern(100)).finished)
        #expect(try rig.awaitFrame()?.header[0] == 0)
    }
}
