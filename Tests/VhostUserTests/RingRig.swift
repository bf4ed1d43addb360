import Core
import TestSupport
import Testing
import VhostUser

/// A raw front end with memory and a ring.
final class RingRig {
    let server: ServerRig
    let peer: RawPeer
    let scratch: ScratchMemory
    let driver: DriverQueue
    let kick: EventFD
    let call: EventFD
    let error: EventFD
    /// User addresses are guest addresses plus this.
    let offset: UInt64 = 0x7000_0000_0000

    init(features: UInt64? = nil, isNegotiating: Bool = true) throws {
        server = try ServerRig()
        peer = try server.connect()
        scratch = try ScratchMemory()
        kick = try EventFD()
        call = try EventFD()
        error = try EventFD()
        let common = VirtioFeature.version1
        driver = DriverQueue(scratch, size: 8, features: common)
        if isNegotiating {
            try peer.negotiate(features: features ?? (common | VhostFeature.protocolFeatures))
        }
    }

    var loop: EventLoop { server.loop }
    var device: EchoDevice { server.device }

    func sendMemory() throws {
        let region = scratch.memory.regions[0]
        let file = try #require(region.file)
        try peer.send(
            .setMemTable,
            littleEndian(1, 0 as UInt32)
                + littleEndian(
                    region.start.rawValue, region.size, region.start.rawValue + offset,
                    0 as UInt64),
            fds: [file])
    }

    func sendRing(flags: UInt32 = 0, log: UInt64 = 0) throws {
        let layout = driver.layout
        try peer.send(.setVringNum, littleEndian(0, UInt32(layout.size)))
        try peer.send(
            .setVringAddr,
            littleEndian(0, flags)
                + littleEndian(
                    layout.descriptors.rawValue + offset, layout.device.rawValue + offset,
                    layout.driver.rawValue + offset, log))
        try peer.send(.setVringCall, littleEndian(0 as UInt64), fds: [call.fd])
        try peer.send(.setVringErr, littleEndian(0 as UInt64), fds: [error.fd])
    }

    func sendKick() throws {
        try peer.send(.setVringKick, littleEndian(0 as UInt64), fds: [kick.fd])
    }

    func enable(_ value: UInt32 = 1) throws {
        try peer.send(.setVringEnable, littleEndian(0, value))
    }

    func add() -> DriverBuffer {
        let reply = scratch.buffer(1)
        driver.add(readable: [scratch.place([0x0f])], writable: [reply])
        _ = driver.publish()
        return reply
    }

    /// Lets the server do what it has been sent.
    func settle() throws { _ = try peer.ask(.getFeatures) }

    func isFinished() -> Bool {
        loop.run(timeoutMilliseconds: 5000) { ((try? driver.popUsed()) ?? nil) != nil }
    }

    /// Makes the ring serve its first kick.
    func run() throws {
        try sendMemory()
        try sendRing()
        try enable()
        try sendKick()
    }

    /// Makes the ring run at once, without a kick.
    func runPolled() throws {
        try sendMemory()
        try sendRing()
        try enable()
        try peer.send(.setVringKick, littleEndian(0x100 as UInt64))
        try settle()
    }

    /// Whether the device does one more request.
    func serves() -> Bool {
        _ = add()
        kick.signal()
        return isFinished()
    }

    func base() throws -> [UInt8] { try peer.ask(.getVringBase, littleEndian(0, 0 as UInt32)) }
}
