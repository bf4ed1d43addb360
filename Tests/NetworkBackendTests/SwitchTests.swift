import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct SwitchTests {
    /// Makes the switch know where an address is: what is sent goes to all others, who get it.
    private func introduce(_ peer: StreamPeer, _ number: Int, to others: [StreamPeer]) throws {
        let hello = frame(to: everybody, from: address(number))
        try peer.send(hello)
        for other in others { #expect(try other.receive() == hello) }
    }

    @Test("frames go to all ports until the switch knows where their address is")
    func learns() throws {
        let rig = try SwitchRig()
        let peers = try rig.connect(3)
        try introduce(peers[0], 1, to: [peers[1], peers[2]])
        let answer = frame(to: address(1), from: address(2))
        try peers[1].send(answer)
        #expect(try peers[0].receive() == answer)
        let unknown = frame(to: address(9), from: address(1))
        try peers[0].send(unknown)
        // The third has not got the answer before.
        for peer in peers[1...] { #expect(try peer.receive() == unknown) }
    }

    @Test("an address moves with its interface, and is forgotten with its port")
    func moves() throws {
        let rig = try SwitchRig()
        let peers = try rig.connect(3)
        try introduce(peers[0], 1, to: [peers[1], peers[2]])
        try introduce(peers[1], 1, to: [peers[0], peers[2]])
        let moved = frame(to: address(1), from: address(3))
        try peers[2].send(moved)
        #expect(try peers[1].receive() == moved)
        peers[1].socket.shutDown()
        let lost = frame(to: address(1), from: address(3), 1)
        repeat { try peers[2].send(lost) } while try peers[0].receive(milliseconds: 50) != lost
    }

    @Test("many frames of all sizes arrive in order, at whatever pieces they come")
    func stream() throws {
        let rig = try SwitchRig()
        let peers = try rig.connect(2)
        let (a, b) = (peers[0], peers[1])
        try introduce(a, 1, to: [b])
        try introduce(b, 2, to: [a])
        let sizes = [60, 1514, 14, 65_550, 61, 9000]
        for round in 0..<20 {
            var bytes: [UInt8] = []
            for (number, size) in sizes.enumerated() where size >= 60 {
                bytes += StreamPeer.packet(
                    frame(to: address(2), from: address(1), round + number, size: size))
            }
            // Too short to be a frame: it goes nowhere.
            bytes += StreamPeer.packet([1, 2, 3]) + [0, 0, 0, 0]
            let cut = (round * 4093) % bytes.count
            try a.socket.send(Array(bytes[..<cut]))
            try a.socket.send(Array(bytes[cut...]))
            for (number, size) in sizes.enumerated() where size >= 60 {
                let expected = frame(to: address(2), from: address(1), round + number, size: size)
                #expect(try b.receive() == expected)
            }
        }
    }

    @Test("a port that does not take its frames loses some, and holds up nobody")
    func slow() throws {
        let rig = try SwitchRig()
        let peers = try rig.connect(3)
        let (a, b, slow) = (peers[0], peers[1], peers[2])
        try introduce(a, 1, to: [b, slow])
        try introduce(b, 2, to: [a, slow])
        try introduce(slow, 3, to: [a, b])
        let count = 400
        for number in 0..<count {
            try a.send(frame(to: address(3), from: address(1), number, size: 20_000))
        }
        let word = frame(to: address(2), from: address(1), 7)
        try a.send(word)
        #expect(try b.receive() == word)
        var last = -1
        var arrived = 0
        var attempts = 0
        // Afterwards all is as before.
        let end = 1000
        while true {
            guard let got = try slow.receive(milliseconds: 200) else {
                // The switch may have no room for it yet.
                attempts += 1
                try #require(attempts < 50)
                try a.send(frame(to: address(3), from: address(1), end, size: 20_000))
                continue
            }
            let number = Int(got[14]) << 8 | Int(got[15])
            if number == end { break }
            #expect(number > last)
            #expect(got == frame(to: address(3), from: address(1), number, size: 20_000))
            last = number
            arrived += 1
        }
        #expect(arrived > 10)
        #expect(arrived < count)
    }

    @Test("isolated ports reach the up-link only, and cannot take each other's addresses")
    func isolated() throws {
        let (near, far) = try UnixSocket.pair()
        let rig = try SwitchRig(.init(isIsolated: true), upLink: far)
        let upLink = StreamPeer(near)
        let (a, b) = try (rig.connect(), rig.connect())
        // The first is there when the second is.
        try introduce(b, 2, to: [upLink])
        try introduce(a, 1, to: [upLink])
        try a.send(frame(to: address(2), from: address(1), 1))
        #expect(try upLink.receive() == frame(to: address(2), from: address(1), 1))
        // As if it were the other one.
        try b.send(frame(to: everybody, from: address(1), 2))
        let answer = frame(to: address(1), from: address(100), 3)
        try upLink.send(answer)
        #expect(try a.receive() == answer)
        let all = frame(to: everybody, from: address(100), 4)
        try upLink.send(all)
        #expect(try a.receive() == all)
        #expect(try b.receive() == all)
        try b.send(frame(to: everybody, from: address(2), 5))
        #expect(try upLink.receive() == frame(to: everybody, from: address(2), 5))
    }

    @Test("switches join by their up-links")
    func cascade() throws {
        let (near, far) = try UnixSocket.pair()
        let (left, right) = try (SwitchRig(upLink: near), SwitchRig(upLink: far))
        let (a, b) = try (left.connect(), right.connect())
        // Until both are there.
        let hello = frame(to: everybody, from: address(2))
        repeat { try b.send(hello) } while try a.receive(milliseconds: 50) != hello
        try introduce(a, 1, to: [b])
        let word = frame(to: address(2), from: address(1), 3)
        try a.send(word)
        #expect(try b.receive() == word)
    }

    @Test("an up-link comes and goes")
    func upLinkReturns() throws {
        let folder = try TestFolder()
        let listener = try LinkFiles.listener(folder["up"])
        let rig = try SwitchRig(source: .accept(listener))
        let a = try rig.connect()
        for round in 0..<2 {
            let upLink = try StreamPeer(path: folder["up"])
            let hello = frame(to: everybody, from: address(5), round)
            repeat { try upLink.send(hello) } while try a.receive(milliseconds: 50) != hello
            try a.send(frame(to: address(5), from: address(1)))
            #expect(try upLink.receive() == frame(to: address(5), from: address(1)))
            upLink.socket.shutDown()
        }
    }

    @Test("a port that sends what is no frame is thrown out; there is a limit to ports")
    func refused() throws {
        var settings = FrameSwitch.Settings()
        settings.portCount = 2
        let rig = try SwitchRig(settings)
        let peers = try rig.connect(2)
        let (a, b) = (peers[0], peers[1])
        try introduce(a, 1, to: [b])
        let third = try rig.connect()
        try third.send(frame(to: everybody, from: address(3)))
        #expect(try a.receive(milliseconds: 100) == nil)
        try b.socket.send([0xff, 0, 0, 0, 1, 2, 3])
        #expect(try b.receive() == nil)
        // There is a place now.
        #expect(try a.receive() == frame(to: everybody, from: address(3)))
    }

    @Test("frames for bridges and with impossible sources go nowhere")
    func dropped() throws {
        let rig = try SwitchRig()
        let peers = try rig.connect(2)
        let (a, b) = (peers[0], peers[1])
        try a.send(frame(to: 0x0180_c200_0000, from: address(1), 1))
        try a.send(frame(to: everybody, from: everybody, 2))
        try a.send(frame(to: everybody, from: 0, 3))
        try introduce(a, 1, to: [b])
    }

    @Test("frames for everybody have a limit")
    func storm() throws {
        let port = try SwitchPort(.stream, number: 1)
        var now: UInt64 = 5_000_000_000
        #expect((0..<5000).count { _ in port.mayFlood(at: now) } == 1001)
        now += 10_000_000
        #expect((0..<5000).count { _ in port.mayFlood(at: now) } == 100)
        #expect(port.droppedCount == 3999 + 4900)
    }
}

@Suite struct AddressTableTests {
    private func makeTable(shares: [Int] = [64, 64], keepsOwners: Bool = false) throws
        -> AddressTable
    { try AddressTable(shares: shares, keepsOwners: keepsOwners) }

    @Test("addresses are known for five minutes after they were last heard of")
    func ages() throws {
        let table = try makeTable()
        _ = table.learn(address(1), at: 1, 100)
        #expect(table.port(of: address(1), at: 400) == 1)
        #expect(table.port(of: address(1), at: 401) == nil)
        _ = table.learn(address(1), at: 1, 400)
        #expect(table.port(of: address(1), at: 700) == 1)
    }

    @Test("a port has its share and no more, and others have theirs")
    func share() throws {
        let table = try makeTable()
        for number in 0..<10_000 { _ = table.learn(address(number), at: 0, 1) }
        #expect((0..<10_000).count { table.port(of: address($0), at: 1) == 0 } == 64)
        for number in 0..<32 { _ = table.learn(address(20_000 + number), at: 1, 1) }
        #expect((0..<32).count { table.port(of: address(20_000 + $0), at: 1) == 1 } == 32)
        // Those that are forgotten make room.
        for number in 0..<64 { _ = table.learn(address(30_000 + number), at: 0, 400) }
        #expect((0..<64).count { table.port(of: address(30_000 + $0), at: 400) == 0 } >= 60)
        table.forget(0)
        #expect((0..<64).count { table.port(of: address(30_000 + $0), at: 400) == 0 } == 0)
    }

    @Test("an address that is kept is another's only after it has been forgotten")
    func keeps() throws {
        let table = try makeTable(keepsOwners: true)
        #expect(table.learn(address(1), at: 0, 1) == .known)
        #expect(table.learn(address(1), at: 1, 2) == .taken)
        #expect(table.port(of: address(1), at: 2) == 0)
        #expect(table.learn(address(1), at: 1, 302) == .known)
        #expect(table.port(of: address(1), at: 302) == 1)
    }
}

@Suite struct RateLimitTests {
    @Test("in the long run a rate is kept, whatever the sizes", arguments: [7, 1514, 65_550])
    func rate(_ size: UInt64) {
        var limit = RateLimit(perSecond: 1_000_003, burst: 10)
        var now: UInt64 = 1_000_000_000
        var sum: UInt64 = 0
        while now < 11_000_000_000 {
            if limit.allows(at: now) {
                limit.use(size, at: now)
                sum += size
            } else {
                now = limit.nextTime
            }
        }
        #expect(sum >= 10_000_030)
        #expect(sum <= 10_000_030 + 10_001 + 2 * size)
    }
}
