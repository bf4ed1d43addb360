import CLinux
import Core
import Glibc
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct DatagramTests {
    /// The other end.
    private final class Peer {
        let fd: SharedFD
        let device: String

        init(_ folder: TestFolder) throws {
            device = folder["device"]
            fd = SharedFD(owning: try checking("socket", clinux_unix_datagram_socket()))
            unsafe unlink(folder["peer"])
            try UnixListener.bind(fd, at: folder["peer"])
        }

        func send(_ frame: [UInt8]) throws {
            let output = SharedFD(owning: clinux_unix_datagram_socket())
            _ = try checking("connect", unsafe clinux_unix_connect(output.rawValue, device))
            // SAFETY: the bytes live for the call.
            let sent = unsafe Glibc.send(output.rawValue, frame, frame.count, 0)
            #expect(sent == frame.count)
        }

        func receive() -> [UInt8]? {
            guard fd.waitReadable() else { return nil }
            var bytes = [UInt8](repeating: 0, count: 1 << 17)
            // SAFETY: the array has that room.
            let count = unsafe recv(fd.rawValue, &bytes, bytes.count, 0)
            return count < 0 ? nil : Array(bytes.prefix(count))
        }
    }

    @Test("a frame is a datagram, both ways, with one peer after the other")
    func frames() throws {
        let folder = try TestFolder()
        let rig = try NetworkRig("dgram,local=\(folder["device"]),remote=\(folder["peer"])")
        try rig.start()
        for _ in 0..<20 { rig.offer([700]) }
        // Nobody is there yet.
        try rig.send(pattern(60))
        #expect(try rig.awaitSent() != nil)
        for round in 0..<2 {
            let peer = try Peer(folder)
            Clock.sleep(milliseconds: 110)
            for size in [60, 1514, 30_000] {
                try rig.send(pattern(size, seed: round), pieces: 3)
                #expect(peer.receive() == pattern(size, seed: round))
            }
            for size in [60, 1514, 1518] {
                try peer.send(pattern(size, seed: round))
                #expect(try rig.awaitFrame()?.frame == pattern(size, seed: round))
            }
            // Longer than any on this network: it is dropped.
            try peer.send(pattern(1600))
        }
    }

    @Test(
        "the guest is announced in the network, between its own frames",
        arguments: [0, VirtioFeature.packedRing])
    func announcement(ring: UInt64) throws {
        let folder = try TestFolder()
        let rig = try NetworkRig(
            "dgram,local=\(folder["device"]),remote=\(folder["peer"])", features: ring)
        let peer = try Peer(folder)
        try rig.start()
        let address: [UInt8] = [0x52, 0x54, 0, 1, 2, 3]
        for number in 0..<3 {
            try rig.send(pattern(100, seed: number))
            #expect(peer.receive() == pattern(100, seed: number))
            rig.device.announce(address)
            let frame = try #require(peer.receive())
            #expect(frame.count == 60)
            let start = [UInt8](repeating: 255, count: 6) + address + [0x80, 0x35]
            #expect(Array(frame[..<14]) == start)
            #expect(Array(frame[22..<28]) == address && Array(frame[32..<38]) == address)
        }
    }

    @Test("an MTU is taken up to the device's own")
    func mtu() throws {
        let folder = try TestFolder()
        let rig = try NetworkRig(
            "dgram,local=\(folder["device"]),remote=\(folder["peer"]),mtu=9000")
        try rig.device.setMTU(1500)
        try rig.device.setMTU(9000)
        for size in [0, 67, 9001] as [UInt16] {
            #expect(throws: VirtioDeviceError.self) { try rig.device.setMTU(size) }
        }
    }

    @Test("a slow peer gets all")
    func slow() throws {
        let folder = try TestFolder()
        let rig = try NetworkRig("dgram,local=\(folder["device"]),remote=\(folder["peer"])")
        let peer = try Peer(folder)
        try rig.start()
        for number in 0..<60 { try rig.send(pattern(1000, seed: number)) }
        Clock.sleep(milliseconds: 50)
        for number in 0..<60 { #expect(peer.receive() == pattern(1000, seed: number)) }
    }
}

extension SharedFD {
    /// Whether there is something to read within ten seconds.
    func waitReadable() -> Bool { clinux_poll_two(rawValue, Int16(POLLIN), -1, 0, 10_000) != 0 }
}
