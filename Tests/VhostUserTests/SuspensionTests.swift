import Core
import TestSupport
import Testing
import VhostUser

@Suite("Requests that a stopped ring leaves unfinished")
struct SuspensionTests {
    /// What a back end knows of it, and whether requests are then left.
    struct Ability: CustomTestStringConvertible {
        let hidden: ProtocolFeatures
        let leaves: Bool
        let testDescription: String

        static let all = [
            Ability(hidden: [], leaves: true, testDescription: "with a message of its own"),
            Ability(
                hidden: .skipDrain, leaves: true, testDescription: "with each GET_VRING_BASE"),
            Ability(
                hidden: [.skipDrain, .baseWithInflight], leaves: false, testDescription: "not"),
        ]
    }

    @Test(
        "are done by the back end that takes over", arguments: Pairing.Ring.allCases, Ability.all)
    func handOver(ring: Pairing.Ring, ability: Ability) throws {
        let pairing = try Pairing(ring, hidden: ability.hidden)
        try pairing.start()
        for round in 0..<5 {
            pairing.backend.perform { $0.device.canSuspend = true }
            pairing.sendHeld(3)
            // The second of them is finished, the others are not.
            pairing.backend.perform { $0.device.finishOnly(0, [1]) }
            try pairing.collect()
            #expect(pairing.finished.count == 5 * round + 1)
            try pairing.upgradeBackend()
            for _ in 0..<2 { pairing.send() }
            #expect(try pairing.finishes())
            let count = ability.leaves ? 4 : 2
            pairing.backend.perform { #expect($0.device.log.count == count) }
        }
        #expect(pairing.finished.sorted() == Array(1...25))
        #expect(pairing.states == [.connected])
    }

    @Test("are done before the change where there is no place to note them")
    func noPlace() throws {
        try handOver(
            ring: .split,
            ability: Ability(hidden: .inflight, leaves: false, testDescription: ""))
    }

    @Test("are done when the ring goes on", arguments: Pairing.Ring.allCases)
    func goOn(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring, hidden: .skipDrain)
        try pairing.start()
        pairing.backend.perform { $0.device.canSuspend = true }
        pairing.sendHeld(4)
        pairing.backend.perform { $0.device.isHolding = false }
        try pairing.goOn(with: pairing.scratch.memory)
        pairing.send()
        #expect(try pairing.finishes())
        #expect(pairing.finished.sorted() == Array(1...5))
        // Each of the four was taken twice.
        pairing.backend.perform { #expect($0.device.log.count == 9) }
    }

    @Test("are forgotten when the driver gives the ring up", arguments: Pairing.Ring.allCases)
    func reset(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring, hidden: .skipDrain)
        try pairing.start()
        pairing.backend.perform { $0.device.canSuspend = true }
        pairing.sendHeld(4)
        pairing.backend.perform { $0.device.isHolding = false }
        try pairing.resetQueue()
        pairing.send()
        #expect(try pairing.finishes())
        #expect(pairing.finished == [5])
    }

    @Test("are not left by a front end that only asks how far the ring got")
    func drain() throws {
        let rig = try RingRig()
        try rig.peer.send(
            .setProtocolFeatures,
            littleEndian(
                ([.inflight, .baseWithInflight, .skipDrain] as ProtocolFeatures).rawValue))
        for (request, isLeft) in [
            (FrontendRequest.getVringBase, false), (.getVringBaseSkipDrain, true),
        ] {
            rig.device.canSuspend = true
            rig.device.isHolding = true
            try track(rig)
            try rig.run()
            let served = rig.device.log.count
            _ = rig.add()
            rig.kick.signal()
            #expect(rig.loop.run { rig.device.log.count == served + 1 })
            let base = try rig.peer.ask(request, littleEndian(0, 0 as UInt32))
            #expect(base == littleEndian(0, UInt32(rig.driver.state.nextAvailable)))
            #expect(try (rig.driver.popUsed() == nil) == isLeft)
        }
    }

    /// Gives the back end memory for what is in flight.
    private func track(_ rig: RingRig) throws {
        try rig.peer.send(
            .getInflightFD,
            littleEndian(0, 0 as UInt64) + littleEndian(2, 64 as UInt16) + [0, 0, 0, 0])
        let reply = try rig.peer.receive()
        try rig.peer.send(.setInflightFD, Array(reply.bytes.dropFirst(12)), fds: reply.fds)
    }

    @Test(
        "are not agreed on without a place for them",
        arguments: [[.baseWithInflight], [.inflight, .skipDrain]] as [ProtocolFeatures])
    func missing(features: ProtocolFeatures) throws {
        let rig = try RingRig()
        try rig.peer.send(.setProtocolFeatures, littleEndian(features.rawValue))
        #expect(rig.peer.isClosed())
    }
}
