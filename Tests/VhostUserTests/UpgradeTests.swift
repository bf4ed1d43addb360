import Core
import TestSupport
import Testing
import VhostUser

@Suite("A device whose back end hands over to another")
struct UpgradeTests {
    @Test(
        "goes on with the state and all requests",
        arguments: [
            (.split, []), (.split, .deviceState), (.split, .inflight), (.packed, []),
            (.packed, .deviceState),
        ] as [(Pairing.Ring, ProtocolFeatures)])
    func handOver(ring: Pairing.Ring, hidden: ProtocolFeatures) throws {
        let pairing = try Pairing(ring, hidden: hidden)
        try pairing.start()
        for round in 0..<5 {
            let state = pattern(round)
            pairing.backend.perform { $0.device.state = state }
            pairing.sendHeld(3)
            try pairing.upgradeBackend()
            // Whoever had them finished them.
            try pairing.collect()
            #expect(pairing.finished.count == 5 * round + 3)
            for _ in 0..<2 { pairing.send() }
            #expect(try pairing.finishes())
            let isKept = hidden != .deviceState
            pairing.backend.perform {
                #expect($0.device.state == (isKept ? state : []))
                #expect($0.device.log.count == 2)
            }
        }
        #expect(pairing.finished == Array(1...25))
        #expect(pairing.states == [.connected])
    }

    /// More than a pipe or a socket takes at once, in the end.
    private func pattern(_ round: Int) -> [UInt8] {
        (0..<(round * round * 100_000)).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ round) }
    }

    @Test("stays with the old one if the new one lacks something")
    func unfit() throws {
        let pairing = try Pairing(.packed)
        try pairing.start()
        pairing.send()
        #expect(try pairing.finishes())
        #expect(throws: FrontendError.self) {
            try pairing.upgradeBackend { $0.features = VirtioFeature.version1 }
        }
        pairing.send()
        #expect(try pairing.finishes())
        #expect(pairing.states == [.connected])
    }

    @Test(
        "stays with the old one if that does not pass its state on",
        arguments: Pairing.Ring.allCases)
    func keptState(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.backend.perform { $0.device.keepsState = true }
        for round in 0..<2 {
            pairing.sendHeld(3)
            #expect(throws: FrontendError.self) { try pairing.upgradeBackend() }
            pairing.backend.perform { $0.device.isHolding = false }
            for _ in 0..<2 { pairing.send() }
            #expect(try pairing.finishes())
            #expect(pairing.finished.count == 5 * (round + 1))
        }
        #expect(pairing.finished == Array(1...10))
        #expect(pairing.states == [.connected])
        pairing.backend.perform { $0.device.keepsState = false }
        try pairing.upgradeBackend()
        pairing.send()
        #expect(try pairing.finishes())
    }

    @Test(
        "is served by the new one if the old one dies meanwhile", arguments: Pairing.Ring.allCases)
    func death(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.sendHeld(3)
        // The front end does not know yet.
        pairing.backend.kill()
        try pairing.upgradeBackend()
        pairing.send()
        #expect(try pairing.finishes())
        #expect(pairing.finished == Array(1...4))
    }

    @Test(
        "stays with the old one if the new one refuses the state", arguments: Pairing.Ring.allCases)
    func refusedState(ring: Pairing.Ring) throws {
        let pairing = try Pairing(ring)
        try pairing.start()
        pairing.backend.perform { $0.device.state = [1, 2, 3] }
        for round in 1...2 {
            pairing.sendHeld(3)
            #expect(throws: FrontendError.self) {
                try pairing.upgradeBackend { $0.refusesState = true }
            }
            pairing.backend.perform { $0.device.isHolding = false }
            pairing.send()
            #expect(try pairing.finishes())
            #expect(pairing.finished.count == 4 * round)
        }
        #expect(pairing.finished == Array(1...8))
        #expect(pairing.states == [.connected])
        try pairing.upgradeBackend()
        pairing.backend.perform { #expect($0.device.state == [1, 2, 3]) }
        pairing.send()
        #expect(try pairing.finishes())
    }
}

@Suite("The device's state as a back-end server transfers it")
struct DeviceStateTests {
    @Test("goes through a pipe, and is checked")
    func roundTrip() throws {
        let rig = try RingRig()
        rig.device.state = Array(repeating: 7, count: 200_000)
        let image = try save(rig)
        #expect(image.count == 200_012)
        rig.device.state = []
        #expect(try load(rig, image) == 0)
        #expect(rig.device.state == Array(repeating: 7, count: 200_000))
    }

    @Test("is not loaded if it is cut off, changed or longer", arguments: [0, 1, 2, 3, 4])
    func damaged(kind: Int) throws {
        let rig = try RingRig()
        rig.device.state = [1, 2, 3]
        var image = try save(rig)
        rig.device.state = [9]
        switch kind {
        case 0: image.removeLast()
        case 1: image[0] ^= 1
        case 2: image[4] ^= 2
        case 3: image[6] ^= 1
        default: image.append(0)
        }
        #expect(try load(rig, image) == 1)
        #expect(rig.device.state == [9])
    }

    @Test("is not touched while a queue runs")
    func running() throws {
        let rig = try RingRig()
        try rig.runPolled()
        let pipe = try Pipe()
        #expect(
            try rig.peer.ask(.setDeviceStateFD, littleEndian(0, 0 as UInt32), fds: [pipe.input])
                == littleEndian(0x101 as UInt64))
        #expect(try rig.peer.ask(.checkDeviceState) == littleEndian(1 as UInt64))
        _ = try rig.base()
        #expect(try save(rig).count == 12)
    }

    @Test("is not loaded into a device whose queues were started since")
    func startedMeanwhile() throws {
        let rig = try RingRig()
        rig.device.state = [1, 2, 3]
        let image = try save(rig)
        rig.device.state = [9]
        #expect(try load(rig, image) { try rig.runPolled() } == 1)
        #expect(rig.device.state == [9])
        #expect(rig.device.runningQueues == [0])
    }

    @Test("is not complete while the other side still writes")
    func tooEarly() throws {
        let rig = try RingRig()
        let pipe = try Pipe()
        #expect(
            try rig.peer.ask(.setDeviceStateFD, littleEndian(1, 0 as UInt32), fds: [pipe.output])
                == littleEndian(0x100 as UInt64))
        #expect(try rig.peer.ask(.checkDeviceState) == littleEndian(1 as UInt64))
    }

    private func save(_ rig: RingRig) throws -> [UInt8] {
        var pipe: Pipe? = try Pipe()
        let output = try #require(pipe?.output)
        #expect(
            try rig.peer.ask(
                .setDeviceStateFD, littleEndian(0, 0 as UInt32), fds: [#require(pipe?.input)])
                == littleEndian(0x100 as UInt64))
        pipe = nil
        var bytes: [UInt8] = []
        var isOver = false
        let isDone = rig.loop.run {
            isOver = output.readAvailable(into: &bytes)
            return isOver
        }
        #expect(isDone)
        #expect(try rig.peer.ask(.checkDeviceState) == littleEndian(0 as UInt64))
        return bytes
    }

    private func load(
        _ rig: RingRig, _ image: [UInt8], meanwhile: () throws -> Void = {}
    ) throws -> UInt64 {
        var pipe: Pipe? = try Pipe()
        #expect(
            try rig.peer.ask(
                .setDeviceStateFD, littleEndian(1, 0 as UInt32), fds: [#require(pipe?.output)])
                == littleEndian(0x100 as UInt64))
        try meanwhile()
        var rest = image[...]
        let isDone = rig.loop.run {
            rest = rest.dropFirst(pipe?.input.writeAvailable(rest) ?? 0)
            return rest.isEmpty
        }
        #expect(isDone)
        pipe = nil
        return VhostUserClient.value(try rig.peer.ask(.checkDeviceState), 0, UInt64.self)
    }
}
