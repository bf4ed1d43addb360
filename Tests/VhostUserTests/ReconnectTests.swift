import Core
import TestSupport
import Testing
import VhostUser

@Suite("A device whose back end is replaced")
struct ReconnectTests {
    @Test("goes on with what was set up", arguments: Pairing.Ring.allCases)
    func idle(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.frontend.writeConfig(offset: 4, [0x99])
        pairing.send()
        #expect(try pairing.finishes())
        for _ in 0..<3 {
            try pairing.replaceBackend()
            pairing.send()
            #expect(try pairing.finishes())
        }
        pairing.backend.perform { #expect($0.device.config[4] == 0x99) }
        #expect(pairing.frontend.readConfig(offset: 4, count: 1) == [0x99])
    }

    @Test(
        "comes back after the driver has written to read-only configuration space",
        arguments: [[], .replyAck] as [ProtocolFeatures])
    func readOnlyConfig(hidden: ProtocolFeatures) throws {
        let pairing = try Pairing(.split, hidden: hidden)
        try pairing.start()
        pairing.frontend.writeConfig(offset: 12, [0x55])
        #expect(pairing.frontend.readConfig(offset: 12, count: 1) == [12])
        #expect(pairing.states.count == 1)
        try pairing.replaceBackend()
        pairing.send()
        #expect(try pairing.finishes())
        #expect(pairing.frontend.readConfig(offset: 12, count: 1) == [12])
    }

    @Test(
        "finishes what the old one had taken, and what was sent meanwhile",
        arguments: Pairing.Ring.allCases)
    func inFlight(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for _ in 0..<3 { pairing.send() }
        #expect(try pairing.finishes())
        pairing.sendHeld(4)
        pairing.loseBackend()
        pairing.send()
        try pairing.attachNewBackend()
        #expect(try pairing.finishes())
        #expect(pairing.finished == Array(1...8))
        // Taken again in the order in which the driver sent them.
        pairing.backend.perform { #expect($0.device.log.count == 5) }
    }

    @Test(
        "neither loses nor repeats what was finished out of order",
        arguments: Pairing.Ring.allCases)
    func outOfOrder(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.sendHeld(5)
        pairing.backend.perform { $0.device.finishOnly(0, [3, 1]) }
        try pairing.collect()
        #expect(pairing.finished == [4, 2])
        try pairing.replaceBackend()
        #expect(try pairing.finishes())
        #expect(pairing.finished == [4, 2, 1, 3, 5])
    }

    @Test(
        "tells the driver of what the old one finished without saying so",
        arguments: Pairing.Ring.allCases)
    func silentFinish(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.backend.perform { $0.device.isSilent = true }
        pairing.send()
        #expect(pairing.backend.waits { $0.log.count == 1 })
        try pairing.replaceBackend()
        #expect(try pairing.finishes())
    }

    @Test("survives back ends that are killed again and again", arguments: Pairing.Ring.allCases)
    func torture(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for round in 0..<30 {
            // Two descriptors each, in a ring of sixteen.
            for _ in 0..<(round % 2 + 1) { pairing.send(8) }
            pairing.backend.perform {
                $0.device.isHolding = true
                $0.device.serve(0)
                $0.device.finishOnly(0, round % 3 == 0 ? [] : [$0.device.heldCount(0) - 1])
            }
            try pairing.replaceBackend()
            if round % 3 == 2 { #expect(try pairing.finishes()) }
        }
        #expect(Set(pairing.finished).count == pairing.finished.count)
    }

    @Test("has nothing left of a queue that the driver resets", arguments: Pairing.Ring.allCases)
    func queueReset(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for _ in 0..<3 { pairing.send() }
        #expect(try pairing.finishes())
        try pairing.resetQueue()
        for _ in 0..<2 { pairing.send() }
        #expect(try pairing.finishes())
        #expect(pairing.finished == [4, 5])
    }

    @Test(
        "has nothing left of a queue that the driver resets meanwhile",
        arguments: Pairing.Ring.allCases)
    func queueResetWhileLost(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        for _ in 0..<3 { pairing.send() }
        #expect(try pairing.finishes())
        pairing.sendHeld(2)
        pairing.loseBackend()
        try pairing.resetQueue()
        pairing.send()
        try pairing.attachNewBackend()
        #expect(try pairing.finishes())
        #expect(pairing.finished == [6])
        pairing.backend.perform { #expect($0.device.log.count == 1) }
    }

    @Test("goes on without an in-flight area, from the used ring")
    func withoutInflight() throws {
        let pairing = try Pairing(.split, hidden: [.inflight])
        try pairing.start()
        for _ in 0..<3 { pairing.send() }
        #expect(try pairing.finishes())
        pairing.sendHeld(2)
        try pairing.replaceBackend()
        #expect(try pairing.finishes())
        #expect(pairing.finished == Array(1...5))
    }

    @Test(
        "stalls while there is none, and can be stopped and started then",
        arguments: Pairing.Ring.allCases)
    func stopWhileLost(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        pairing.sendHeld(1)
        pairing.loseBackend()
        var setup = pairing.setup
        setup.state = pairing.frontend.stopQueue(0)
        try pairing.frontend.startQueue(0, setup)
        try pairing.attachNewBackend()
        #expect(try pairing.finishes())
    }

    @Test("can be reset while there is none", arguments: Pairing.Ring.allCases)
    func resetWhileLost(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.sendHeld(1)
        pairing.loseBackend()
        pairing.frontend.reset()
        try pairing.attachNewBackend()
        pairing.backend.perform { #expect($0.device.starts == 0) }
    }

    @Test("is not given to a back end that lacks what is in use")
    func incompatible() throws {
        let pairing = try Pairing(.packed)
        try pairing.start()
        pairing.loseBackend()
        let error = #expect(throws: FrontendError.self) {
            try pairing.attachNewBackend(hidden: [.inflight])
        }
        #expect(error?.description.contains("0x400000000") == true)
        pairing.backend.end()
        try pairing.attachNewBackend(hidden: [])
        pairing.send()
        #expect(try pairing.finishes())
    }
}
