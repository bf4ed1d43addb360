import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite("Ports of a switch whose queues it serves") struct MemoryPortTests {
    private static func settings(_ poll: UInt64 = 32) -> FrameSwitch.Settings {
        var settings = FrameSwitch.Settings()
        settings.memoryPortCount = 2
        settings.pollMicroseconds = poll
        return settings
    }

    /// A switch with two devices that know each other: the first is `address(1)`.
    private func pair(
        _ features: UInt64 = 0, to others: UInt64 = 0, poll: UInt64 = 32, limits: String = ""
    ) throws -> (SwitchRig, NetworkRig, NetworkRig) {
        let network = try SwitchRig(Self.settings(poll))
        let first = try network.device(0, features: features | NetworkRig.mergeable)
        let second = try network.device(1, features: others | NetworkRig.mergeable, limits: limits)
        for rig in [first, second] { try rig.start() }
        second.offer([128])
        let hello = frame(to: everybody, from: address(1))
        try first.send(hello)
        #expect(try second.awaitFrame()?.frame == hello)
        #expect(try first.awaitSent() != nil)
        return (network, first, second)
    }

    @Test(
        "frames go from one driver to the other, in order, in whatever pieces they lie",
        arguments: [
            (0, 0), (VirtioFeature.packedRing, 32), (VirtioFeature.eventIndex, 32),
            (VirtioFeature.packedRing, IdlePolling.forEver),
        ] as [(UInt64, UInt64)])
    func frames(_ ring: UInt64, _ poll: UInt64) throws {
        let (network, first, second) = try pair(ring, to: ring, poll: poll)
        let sizes = [60, 1514, 14, 9000, 61, 65_000]
        for round in 0..<8 {
            for (number, size) in sizes.enumerated() {
                while first.receiveCount < 40 { first.offer([2048]) }
                let sent = Array(
                    frame(to: address(1), from: address(2), round + number, size: max(size, 16))
                        .prefix(size))
                try second.send(sent, pieces: 1 + (round + number) % 4)
                let got = try first.awaitFrame()
                #expect(got?.frame == sent)
                #expect(got?.header.prefix(10) == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                #expect(try second.awaitSent()?.written == 0)
            }
        }
        withExtendedLifetime(network) {}
    }

    private static let offloads =
        NetworkFeature.checksum | NetworkFeature.hostTSO4 | NetworkFeature.hostTSO6
        | NetworkFeature.hostUSO

    @Test("segments are left to a driver that takes them, and made for one that does not")
    func segments() throws {
        let packet = TestPacket(data: pattern(5000))
        let header = packet.header(kind: 1, size: 1448)
        for guest in [0, NetworkFeature.guestChecksum | NetworkFeature.guestTSO4] {
            let (network, first, second) = try pair(guest, to: Self.offloads)
            for _ in 0..<10 { first.offer([2048]) }
            try second.send(packet.unfinished, header: header, pieces: 3)
            if guest == 0 {
                for segment in packet.segments(of: 1448) {
                    #expect(try first.awaitFrame()?.frame == segment)
                }
            } else {
                let got = try #require(try first.awaitFrame())
                #expect(got.frame == packet.unfinished)
                #expect(got.header.prefix(10) == header.prefix(10))
                #expect(got.bufferCount == 3)
            }
            withExtendedLifetime(network) {}
        }
    }

    @Test("what makes no sense goes nowhere, and holds up nothing")
    func senseless() throws {
        let guest = NetworkFeature.guestChecksum | NetworkFeature.guestTSO4
        let (network, first, second) = try pair(guest, to: Self.offloads)
        for _ in 0..<4 { first.offer([2048]) }
        let packet = TestPacket(data: pattern(100))
        var wrong = packet.header(kind: 1, size: 0)
        try second.send(packet.unfinished, header: wrong)
        wrong = packet.header(kind: 0, size: 0)
        wrong[7] = 0xff
        try second.send(packet.unfinished, header: wrong)
        try second.send(packet.unfinished, header: packet.header(kind: 3, size: 50))
        try second.send([1, 2, 3])
        second.submit(readable: [second.scratch.place([0])])
        let good = frame(to: address(1), from: address(2))
        try second.send(good)
        #expect(try first.awaitFrame()?.frame == good)
        for _ in 0..<6 { #expect(try second.awaitSent() != nil) }
        withExtendedLifetime(network) {}
    }

    @Test("devices and streams reach each other")
    func streams() throws {
        let (network, first, second) = try pair(0, to: Self.offloads)
        let peer = try network.connect()
        let hello = frame(to: everybody, from: address(3))
        for rig in [first, second] { rig.offer([2048]) }
        try peer.send(hello)
        for rig in [first, second] { #expect(try rig.awaitFrame()?.frame == hello) }
        let packet = TestPacket(data: pattern(3000))
        var bytes = packet.unfinished
        bytes[5] = 3
        try second.send(bytes, header: packet.header(kind: 1, size: 1448))
        for segment in packet.segments(of: 1448) {
            var expected = segment
            expected[5] = 3
            #expect(try peer.receive() == expected)
        }
        first.offer([2048])
        let answer = frame(to: address(1), from: address(3))
        try peer.send(answer)
        #expect(try first.awaitFrame()?.frame == answer)
    }

    @Test("a driver without buffers is waited for, but not for long")
    func waits() throws {
        let (network, first, second) = try pair()
        let peer = try network.connect()
        let hello = frame(to: everybody, from: address(3))
        try peer.send(hello)
        // Neither has room for it. Frames for a driver that gives buffers at once, after one for nobody:
        // when that one is back, the switch has seen that there are none. On a machine that is busy the
        // buffers may come too late, but not every time.
        var got: [[UInt8]] = []
        var frames: [[UInt8]] = []
        for attempt in 0..<50 {
            frames = (0..<3).map { frame(to: address(1), from: address(2), 3 * attempt + $0) }
            for sent in [frame(to: 0x0180_c200_0000, from: address(2))] + frames {
                let bytes = [UInt8](repeating: 0, count: 12) + sent
                #expect(second.transmit.add(readable: [second.scratch.place(bytes)], writable: []))
            }
            if second.transmit.publish() { second.kicks[1].signal() }
            #expect(try second.awaitSent() != nil)
            // Longer than a turn of the switch, and shorter than it waits.
            Clock.sleep(milliseconds: 1)
            while first.receiveCount < 3 { first.offer([2048]) }
            for _ in 0..<3 { #expect(try second.awaitSent() != nil) }
            got = []
            while let next = try first.awaitFrame(milliseconds: 100)?.frame { got.append(next) }
            if got == frames { break }
            // The buffers that came too late are used up, so that there are none the next time.
            while first.receiveCount > 0 {
                try second.send(frame(to: address(1), from: address(2), 1000))
                #expect(try second.awaitSent() != nil)
                try #require(try first.awaitFrame() != nil)
            }
            // No driver is waited for again before that.
            Clock.sleep(milliseconds: 60)
        }
        #expect(got == frames)
        // Where none come it takes 5 ms, whatever a busy machine does to a few of the times.
        var times: [UInt64] = []
        for number in 0..<9 {
            let start = Clock.monotonic()
            try second.send(frame(to: address(1), from: address(2), number))
            #expect(try second.awaitSent() != nil)
            times.append(Clock.monotonic() - start)
            Clock.sleep(milliseconds: 60)
        }
        #expect(times.sorted()[4] > 3_000_000, "\(times)")
        // And many for one that never does, before one for somebody else.
        let start = Clock.monotonic()
        for number in 0..<30 { try second.send(frame(to: address(1), from: address(2), number)) }
        let other = frame(to: address(3), from: address(2))
        try second.send(other)
        #expect(try peer.receive() == other)
        #expect(Clock.monotonic() - start < 2_000_000_000)
    }

    @Test("no more goes than a port's limits say, and what is too much for it is dropped")
    func limits() throws {
        let (network, first, second) = try pair(limits: ",packet-rate=[500,20]")
        // Ten at once, and then the rate.
        for _ in 0..<60 { first.offer([128]) }
        let start = Clock.monotonic()
        for number in 0..<60 { try second.send(frame(to: address(1), from: address(2), number)) }
        for number in 0..<60 {
            let sent = frame(to: address(1), from: address(2), number)
            #expect(try first.awaitFrame()?.frame == sent)
            #expect(try second.awaitSent() != nil)
        }
        #expect(Clock.monotonic() - start > 80_000_000)
        for _ in 0..<60 { second.offer([128]) }
        let middle = Clock.monotonic()
        for number in 0..<60 { try first.send(frame(to: address(2), from: address(1), number)) }
        for _ in 0..<60 { #expect(try first.awaitSent() != nil) }
        let seconds = Double(Clock.monotonic() - middle) / 1e9
        var count = 0
        while try second.awaitFrame(milliseconds: 20) != nil { count += 1 }
        #expect(count > 0 && Double(count) < 4 + 20 * (seconds + 0.1), "\(count) in \(seconds)")
        withExtendedLifetime(network) {}
    }

    @Test("queues stop and go on where they were", arguments: [0, VirtioFeature.packedRing])
    func stops(_ ring: UInt64) throws {
        let (network, first, second) = try pair(ring, to: ring)
        for round in 0..<20 {
            for number in 0..<3 {
                while first.receiveCount < 6 { first.offer([1024]) }
                let sent = frame(to: address(1), from: address(2), number, size: 1500)
                try second.send(sent)
                #expect(try first.awaitFrame()?.frame == sent)
                #expect(try second.awaitSent() != nil)
            }
            let rig = round % 2 == 0 ? first : second
            for index in 0..<2 {
                let state = rig.device.stopQueue(index)
                try rig.start(index, state: state)
            }
        }
        withExtendedLifetime(network) {}
    }
}
