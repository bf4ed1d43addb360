import Core
import Glibc
import TestSupport
import Testing

@testable import NetworkBackend

@Suite("Streams that outlive their process") struct HeldStreamTests {
    private func pair(
        _ features: UInt64 = NetworkRig.mergeable
    ) throws -> (NetworkRig, StreamPeer) {
        let (near, far) = try UnixSocket.pair()
        let rig = try NetworkRig("connected,fd=\(far.fd.rawValue)", features: features)
        try rig.start()
        return (rig, StreamPeer(near))
    }

    @Test("frames go both ways", arguments: [true, false])
    func both(_ hasMergeableBuffers: Bool) throws {
        let (rig, peer) = try pair(hasMergeableBuffers ? NetworkRig.mergeable : 0)
        for number in 0..<20 {
            rig.offer([2048])
            try peer.send(pattern(64 + number))
            #expect(try rig.awaitFrame()?.frame == pattern(64 + number))
            try rig.send(pattern(65 + number))
            #expect(try peer.receive() == pattern(65 + number))
        }
    }

    @Test("many frames at once, of all sizes, and empty ones")
    func many() throws {
        let (rig, peer) = try pair()
        let sizes = [60, 1514, 65_550, 61, 9000, 30_000, 60_000, 62]
        for _ in 0..<6 {
            // As many as these frames take.
            for _ in 0..<47 { rig.offer([4096]) }
            try peer.socket.send(
                sizes.flatMap { StreamPeer.packet(pattern($0)) + [0, 0, 0, 0] })
            for size in sizes { #expect(try rig.awaitFrame()?.frame == pattern(size)) }
        }
    }

    @Test("half a frame waits in the socket, also for the next process")
    func half() throws {
        let (rig, peer) = try pair()
        for _ in 0..<8 { rig.offer([1000]) }
        let packet = StreamPeer.packet(pattern(2000))
        try peer.send(pattern(100))
        try peer.socket.send(Array(packet.prefix(1500)))
        #expect(try rig.awaitFrame()?.frame == pattern(100))
        Clock.sleep(milliseconds: 30)
        let state = rig.device.stopQueue(0)
        #expect(state.nextAvailable == state.nextUsed)
        try rig.start(0, state: state)
        try peer.socket.send(Array(packet.dropFirst(1500)))
        #expect(try rig.awaitFrame()?.frame == pattern(2000))
    }

    @Test("a slow peer gets whole frames in order")
    func slow() throws {
        let (rig, peer) = try pair()
        for number in 0..<40 { try rig.send(pattern(9000 + 1500 * number, seed: number)) }
        Clock.sleep(milliseconds: 50)
        for number in 0..<40 {
            #expect(try peer.receive() == pattern(9000 + 1500 * number, seed: number))
        }
        for _ in 0..<40 { #expect(try rig.awaitSent() != nil) }
    }

    @Test("a peer that sends what is no frame, or leaves, is not heard of any more")
    func gone() throws {
        let (rig, peer) = try pair()
        #expect(rig.isUp(expecting: true))
        rig.offer([2048])
        try peer.socket.send([0x7f, 0, 0, 0])
        #expect(rig.isUp(expecting: false))
        try rig.send(pattern(60))
        #expect(try rig.awaitSent() != nil)
    }

    @Test("passt is told the ports of the host, and whatever else there is to say")
    func arguments() throws {
        let text = "user,tcp-ports=[2222:22,8080],udp-ports=53,args=[--mtu,1500],passt=/opt/passt"
        let options = try NetworkOptions(NetworkOptions.schema.parse(text))
        guard case .user(let network) = options.link else {
            Issue.record("not user")
            return
        }
        #expect(network.program == "/opt/passt")
        #expect(
            network.commandLine == [
                "passt", "--foreground", "--quiet", "--fd", "3", "--tcp-ports", "2222:22,8080",
                "--udp-ports", "53", "--mtu", "1500",
            ])
        #expect(throws: (any Error).self) { try network.start() }
    }

    @Test("passt can write much more than sockets usually take before anybody reads")
    func room() throws {
        let folder = try TestFolder()
        let end = folder["end"]
        // 208 KiB are usual (net.core.wmem_default).
        let script = "#!/bin/sh\nhead -c 300000 /dev/zero >&3\necho >'\(end)'\n"
        let program = try folder.file("passt", script.utf8)
        #expect(unsafe chmod(program, 0o755) == 0)
        let socket = try UserNetwork(program: program).start()
        let deadline = Clock.monotonic() + 10_000_000_000
        while unsafe access(end, F_OK) != 0, Clock.monotonic() < deadline {
            Clock.sleep(milliseconds: 10)
        }
        #expect(unsafe access(end, F_OK) == 0)
        withExtendedLifetime(socket) {}
    }
}
