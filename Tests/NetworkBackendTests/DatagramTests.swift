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
