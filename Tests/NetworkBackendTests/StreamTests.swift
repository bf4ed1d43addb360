import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct StreamTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private static let rings: [UInt64] = [
        0, VirtioFeature.eventIndex, VirtioFeature.packedRing,
        VirtioFeature.packedRing | VirtioFeature.eventIndex,
    ]

    /// A device that waits for its peer, and the peer.
    private func pair(
        _ features: UInt64 = NetworkRig.mergeable, size: UInt16 = 64
    ) throws -> (NetworkRig, StreamPeer) {
        let rig = try NetworkRig(
            "stream,server=on,path=\(folder["net"])", features: features, size: size)
        try rig.start()
        return (rig, try StreamPeer(path: folder["net"]))
    }

    @Test(
        "frames of the driver arrive, each after its length", arguments: rings,
        [(1, .direct), (3, .direct), (5, .indirect), (40, .indirect)]
            as [(Int, DescriptorStyle)])
    func sends(_ ring: UInt64, _ form: (pieces: Int, style: DescriptorStyle)) throws {
        let (rig, peer) = try pair(ring | NetworkRig.mergeable)
        #expect(rig.isUp(expecting: true))
        for size in [60, 61, 1514, 40_000] {
            let token = try rig.send(
                pattern(size), pieces: form.pieces, style: form.style)
            #expect(try peer.receive() == pattern(size))
            #expect(try rig.awaitSent() == UsedRequest(token: token, written: 0))
        }
    }

    @Test("frames of the peer fill the driver's buffers", arguments: rings)
    func receives(_ ring: UInt64) throws {
        let (rig, peer) = try pair(ring | NetworkRig.mergeable)
        for _ in 0..<8 { rig.offer([2048]) }
        for size in [60, 1514, 1, 2036] {
            try peer.send(pattern(size))
            let received = try #require(try rig.awaitFrame())
            #expect(received.frame == pattern(size))
            #expect(received.header == [UInt8](repeating: 0, count: 10) + [1, 0])
        }
        // It takes up three: 2036, 2048, and what is left.
        try peer.send(pattern(5000))
        let large = try #require(try rig.awaitFrame())
        #expect(large.bufferCount == 3)
        #expect(large.frame == pattern(5000))
    }

    @Test("a frame may come byte by byte, and many at once")
    func pieces() throws {
        let (rig, peer) = try pair()
        for _ in 0..<32 { rig.offer([100, 29], style: .indirect) }
        for byte in StreamPeer.packet(pattern(300)) { try peer.socket.send([byte]) }
        #expect(try rig.awaitFrame()?.frame == pattern(300))
        try peer.socket.send((1...20).flatMap { StreamPeer.packet(pattern($0 * 5, seed: $0)) })
        for number in 1...20 {
            #expect(try rig.awaitFrame()?.frame == pattern(number * 5, seed: number))
        }
    }

    @Test("a frame waits for buffers")
    func waits() throws {
        let (rig, peer) = try pair()
        try peer.send(pattern(3000))
        rig.offer([1000])
        #expect(try rig.awaitFrame(milliseconds: 50) == nil)
        for _ in 0..<3 { rig.offer([1000]) }
        #expect(try rig.awaitFrame()?.frame == pattern(3000))
    }

    @Test("without mergeable buffers, a frame that is too large is dropped")
    func unmergeable() throws {
        let (rig, peer) = try pair(0)
        for _ in 0..<2 { rig.offer([12, 1514]) }
        try peer.send(pattern(1515))
        try peer.send(pattern(1514, seed: 2))
        #expect(try rig.awaitFrame()?.frame == pattern(1514, seed: 2))
        try peer.send(pattern(70_000))
    }

    @Test("a device that is stopped gives back the buffers it has not filled", arguments: rings)
    func stopped(_ ring: UInt64) throws {
        let (rig, peer) = try pair(ring | NetworkRig.mergeable)
        for _ in 0..<6 { rig.offer([1000]) }
        try peer.send(pattern(100))
        #expect(try rig.awaitFrame()?.frame == pattern(100))
        // Half of a frame, for which buffers have been taken.
        try peer.socket.send(Array(StreamPeer.packet(pattern(2000)).prefix(1500)))
        #expect(peer.isRead())
        let state = rig.device.stopQueue(0)
        #expect(state.nextAvailable == state.nextUsed)
        #expect(state.nextUsed & 0x7fff == 1)
        #expect(try rig.receive.popUsed() == nil)
        // The other half is no frame.
        try peer.socket.send(Array(StreamPeer.packet(pattern(2000)).dropFirst(1500)))
        try peer.send(pattern(4500, seed: 3))
        try rig.start(0, state: state)
        #expect(try rig.awaitFrame()?.frame == pattern(4500, seed: 3))
    }

    @Test("frames that a slow peer has not taken survive a stop", arguments: rings)
    func slowPeer(_ ring: UInt64) throws {
        let (rig, peer) = try pair(ring | NetworkRig.mergeable)
        for number in 0..<40 { try rig.send(pattern(50_000, seed: number)) }
        // More than sockets hold: one of the frames has been sent in part.
        Clock.sleep(milliseconds: 100)
        for _ in 0..<3 {
            let state = rig.device.stopQueue(1)
            #expect(state.nextAvailable == state.nextUsed)
            try rig.start(1, state: state)
        }
        for number in 0..<40 { #expect(try peer.receive() == pattern(50_000, seed: number)) }
        for _ in 0..<40 { #expect(try rig.awaitSent() != nil) }
    }

    @Test("as a server it serves one peer after the other")
    func server() throws {
        let (rig, first) = try pair()
        for _ in 0..<4 { rig.offer([2048]) }
        #expect(rig.isUp(expecting: true))
        try first.socket.send([0, 0])
        first.socket.shutDown()
        #expect(rig.isUp(expecting: false))
        // Nobody is there: the frame is lost, and its buffers come back.
        try rig.send(pattern(60))
        #expect(try rig.awaitSent() != nil)
        let second = try StreamPeer(path: folder["net"])
        #expect(rig.isUp(expecting: true))
        _ = rig.loop.run(timeoutMilliseconds: 5000) { rig.configChanges == 3 }
        #expect(rig.configChanges == 3)
        try second.send(pattern(64))
        #expect(try rig.awaitFrame()?.frame == pattern(64))
        try rig.send(pattern(65))
        #expect(try second.receive() == pattern(65))
    }

    @Test("as a client it connects again and again")
    func client() throws {
        let rig = try NetworkRig("stream,path=\(folder["net"])")
        try rig.start()
        for _ in 0..<4 { rig.offer([2048]) }
        for number in 0..<3 {
            let listener = try UnixListener(path: folder["net"])
            let peer = try StreamPeer(listener)
            #expect(rig.isUp(expecting: true))
            try peer.send(pattern(64, seed: number))
            #expect(try rig.awaitFrame()?.frame == pattern(64, seed: number))
            try rig.send(pattern(65))
            #expect(try peer.receive() == pattern(65))
        }
    }
}
