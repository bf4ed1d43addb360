import Core
import TestSupport
import Testing

@testable import NetworkBackend

@Suite struct NetworkDeviceTests {
    private func pair(
        _ more: String = "", features: UInt64 = 0, size: UInt16 = 64, note: ControlNote? = nil
    ) throws -> (NetworkRig, StreamPeer) {
        let (near, far) = try UnixSocket.pair()
        let rig = try NetworkRig(
            "connected,fd=\(far.fd.rawValue)\(more)",
            features: features | NetworkRig.mergeable, size: size, note: note)
        try rig.start()
        return (rig, StreamPeer(near))
    }

    /// The control queue of a rig.
    private struct Control {
        let driver: DriverQueue
        let kick: EventFD
        let call: EventFD

        /// - Parameter state: `nil`: nobody has served it before.
        init(_ rig: NetworkRig, state: QueueState? = nil) throws {
            driver = DriverQueue(rig.scratch, size: 16, features: rig.features)
            kick = try EventFD()
            call = try EventFD()
            var setup = driver.setup(rig.scratch.memory, kick: kick, call: call)
            if let state { setup.state = state }
            try rig.device.startQueue(2, setup)
        }

        func ask(_ command: [UInt8], _ rig: NetworkRig) throws -> UInt8 {
            let place = rig.scratch.place([0xee])
            driver.add(readable: [rig.scratch.place(command)], writable: [place])
            if driver.publish() { kick.signal() }
            var used: UsedRequest?
            _ = rig.loop.run(timeoutMilliseconds: 5000) {
                used = (try? driver.popUsed()) ?? nil
                return used != nil
            }
            return rig.scratch.bytes(place)[0]
        }
    }

    @Test("frames that the driver does not want are not given to it")
    func filter() throws {
        let (rig, peer) = try pair(
            ",mac=02:00:00:00:00:01",
            features: NetworkFeature.controlQueue | NetworkFeature.controlReceive)
        let control = try Control(rig)
        for _ in 0..<8 { rig.offer([2048]) }
        func arrives(_ frames: [[UInt8]]) throws {
            for frame in frames { #expect(try rig.awaitFrame()?.frame == frame) }
        }
        let own = frame(to: address(1), from: address(9))
        let other = frame(to: address(2), from: address(9))
        for frame in [own, other] { try peer.send(frame) }
        try arrives([own, other])
        #expect(try control.ask([0, 0, 0], rig) == 0)
        for frame in [other, own] { try peer.send(frame) }
        try arrives([own])
        #expect(try control.ask([0, 0, 1], rig) == 0)
        try peer.send(other)
        try arrives([other])
    }

    @Test("the driver gives the interface another address, until it begins anew")
    func changedAddress() throws {
        let (rig, _) = try pair(
            ",mac=02:00:00:00:00:01",
            features: NetworkFeature.controlQueue | NetworkFeature.controlAddress)
        let control = try Control(rig)
        #expect(try control.ask([1, 1, 2, 0, 0, 0, 0, 5], rig) == 0)
        #expect(rig.device.readConfig(offset: 0, count: 6) == [2, 0, 0, 0, 0, 5])
        rig.device.reset()
        #expect(rig.device.readConfig(offset: 0, count: 6) == [2, 0, 0, 0, 0, 1])
    }

    private static let commandFeatures =
        NetworkFeature.controlQueue | NetworkFeature.controlReceive
        | NetworkFeature.controlVLAN | NetworkFeature.controlAddress

    @Test("what the driver has asked for holds in the next process", arguments: [false, true])
    func nextProcess(_ isUpgrade: Bool) throws {
        let mac = ",mac=02:00:00:00:00:01"
        let file = isUpgrade ? nil : try ControlNote.makeFile()
        func begin() throws -> (NetworkRig, StreamPeer) {
            try pair(mac, features: Self.commandFeatures, note: file.map(ControlNote.init))
        }
        let (first, _) = try begin()
        let control = try Control(first)
        for command: [UInt8] in [[0, 0, 0], [1, 1, 2, 0, 0, 0, 0, 5], [2, 0, 7, 0]] {
            #expect(try control.ask(command, first) == 0)
        }
        let state = first.device.stopQueue(2)
        let (second, peer) = try begin()
        if isUpgrade { try second.device.loadState(first.device.saveState()) }
        #expect(second.device.readConfig(offset: 0, count: 6) == [2, 0, 0, 0, 0, 5])
        _ = try Control(second, state: state)
        for _ in 0..<8 { second.offer([2048]) }
        let own = frame(to: address(5), from: address(9))
        let foreign = Array(own[..<12]) + [0x81, 0, 0, 8] + own[12...]
        let member = Array(own[..<12]) + [0x81, 0, 0, 7] + own[12...]
        for frame in [frame(to: address(1), from: address(9)), foreign, own, member] {
            try peer.send(frame)
        }
        for frame in [own, member] { #expect(try second.awaitFrame()?.frame == frame) }
        // A driver that begins anew knows nothing of that.
        _ = second.device.stopQueue(2)
        _ = try Control(second)
        #expect(second.device.readConfig(offset: 0, count: 6) == [2, 0, 0, 0, 0, 1])
    }

    @Test("the state of something else is refused and changes nothing")
    func senselessState() throws {
        let (rig, _) = try pair(",mac=02:00:00:00:00:01", features: Self.commandFeatures)
        let control = try Control(rig)
        #expect(try control.ask([1, 1, 2, 0, 0, 0, 0, 5], rig) == 0)
        let good = rig.device.saveState()
        for length in 0..<good.count {
            #expect(throws: VirtioDeviceError.self) {
                try rig.device.loadState(Array(good[..<length]))
            }
        }
        // One byte more: at the end, and in what the driver has asked for.
        let longer = [good[0] + 1] + good[1..<(good.count - 4)] + [0] + good.suffix(4)
        for bad in [good + [0], longer] {
            #expect(throws: VirtioDeviceError.self) { try rig.device.loadState(bad) }
        }
        for place in [4, 6, 24, 33] {
            var bad = good
            bad[place + 1] = 0xff
            _ = try? rig.device.loadState(bad)
        }
        try rig.device.loadState(good)
        #expect(rig.device.readConfig(offset: 0, count: 6) == [2, 0, 0, 0, 0, 5])
    }

    @Test("when somebody is there the driver is to announce itself, and says that it did")
    func announce() throws {
        let (rig, peer) = try pair(
            features: NetworkFeature.controlQueue | NetworkFeature.announce)
        defer { withExtendedLifetime(peer) {} }
        let control = try Control(rig)
        _ = rig.loop.run(timeoutMilliseconds: 5000) {
            rig.device.readConfig(offset: 6, count: 2) == [3, 0]
        }
        #expect(rig.device.readConfig(offset: 6, count: 2) == [3, 0])
        #expect(try control.ask([3, 0], rig) == 0)
        #expect(rig.device.readConfig(offset: 6, count: 2) == [1, 0])
    }

    @Test("no more goes than the limits say", arguments: ["rate=[4M,8M]", "packet-rate=[500,1K]"])
    func limits(_ limit: String) throws {
        let (rig, peer) = try pair(",\(limit)", size: 256)
        // 150 frames of 1000 bytes take 0.3 seconds, and half of that the other way.
        let start = Clock.monotonic()
        for number in 0..<150 { try rig.send(pattern(1000, seed: number)) }
        for number in 0..<150 { #expect(try peer.receive() == pattern(1000, seed: number)) }
        let sent = Clock.monotonic() - start
        #expect(sent > 250_000_000)
        for _ in 0..<150 { rig.offer([1100]) }
        let middle = Clock.monotonic()
        for number in 0..<150 { try peer.send(pattern(1000, seed: number)) }
        for number in 0..<150 {
            #expect(try rig.awaitFrame()?.frame == pattern(1000, seed: number))
        }
        #expect(Clock.monotonic() - middle > 110_000_000)
    }
}
