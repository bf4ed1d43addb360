import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite("What drivers and peers do wrong costs them a frame, or a queue") struct HostileTests {
    let rig: NetworkRig
    let peer: StreamPeer

    init() throws {
        let folder = try TestFolder()
        rig = try NetworkRig("stream,server=on,path=\(folder["net"])", size: 32)
        try rig.start()
        peer = try StreamPeer(path: folder["net"])
    }

    private func expectSent(_ size: Int) throws {
        try rig.send(pattern(size))
        #expect(try peer.receive() == pattern(size))
    }

    @Test("frames without a whole header, or without anything else")
    func headers() throws {
        for count in [1, 11, 12] { try rig.send([], header: [UInt8](repeating: 0, count: count)) }
        rig.transmit.add(readable: [], writable: [rig.scratch.buffer(100)])
        try expectSent(60)
        for _ in 0..<5 { #expect(try rig.awaitSent()?.written == 0) }
    }

    @Test("requests that were not on offer", arguments: [(0, 1), (1, 1), (1, 0x83)])
    func offloads(_ place: Int, _ value: UInt8) throws {
        var header = [UInt8](repeating: 0, count: 12)
        header[place] = value
        try rig.send(pattern(100), header: header)
        try expectSent(61)
        for _ in 0..<2 { #expect(try rig.awaitSent() != nil) }
    }

    @Test("frames of too many pieces, or too many bytes")
    func large() throws {
        let piece = rig.scratch.buffer(1)
        rig.submit(
            readable: [DriverBuffer](repeating: piece, count: 1010), style: .indirect)
        let block = rig.scratch.buffer(1 << 20)
        rig.submit(readable: [block, block])
        try expectSent(62)
        // The largest that there is.
        let all = rig.scratch.buffer(12 + 4096 + 65536)
        rig.submit(readable: [all])
        #expect(try peer.receive()?.count == 4096 + 65536)
    }

    @Test("buffers that cannot even take a header")
    func small() throws {
        for size in [1, 11] { rig.offer([size]) }
        rig.offer([200])
        rig.offer([11])
        rig.offer([200])
        try peer.send(pattern(100))
        try peer.send(pattern(101))
        for _ in 0..<2 { #expect(try rig.awaitFrame()?.frame == []) }
        #expect(try rig.awaitFrame()?.frame == pattern(100))
        #expect(try rig.awaitFrame()?.frame == [])
        #expect(try rig.awaitFrame()?.frame == pattern(101))
    }

    @Test("a ring that makes no sense stops its own queue", arguments: [0, 1])
    func broken(_ queue: Int) throws {
        let driver = queue == 0 ? rig.receive : rig.transmit
        try rig.scratch.memory.write(
            GuestAddress(driver.layout.driver.rawValue + 2), 0x4000 as UInt16)
        rig.kicks[queue].signal()
        // Buffers are looked at when there is something to put into them.
        if queue == 0 { try peer.send(pattern(100)) }
        #expect(rig.errors[queue].fd.waitReadable())
        if queue == 0 {
            try expectSent(63)
        } else {
            rig.offer([200])
            try peer.send(pattern(100))
            #expect(try rig.awaitFrame()?.frame == pattern(100))
        }
    }

    @Test("a peer that announces too much loses its connection")
    func announcement() throws {
        try peer.socket.send([0, 1, 0x10, 1])
        rig.offer([200])
        #expect(try peer.receive() == nil)
    }

    @Test("empty frames of the peer")
    func empty() throws {
        rig.offer([200])
        for _ in 0..<1000 { try peer.send([]) }
        try peer.send(pattern(50))
        #expect(try rig.awaitFrame()?.frame == pattern(50))
    }
}
