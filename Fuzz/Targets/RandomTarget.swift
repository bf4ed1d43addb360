import Core
import TestSupport
import VhostUser

@testable import RandomBackend

/// Rings full of garbage before a device that its control thread serves. The device fills whatever
/// it is given with zeroes, the rings included.
struct RandomTarget: FuzzTarget {
    static let name = "rng"
    static let about = "the random device behind rings full of garbage"
    static let seeds: [[UInt8]] =
        QueueRig.seeds(isPacked: false).map { [0, 0, 0] + $0 }
        + QueueRig.seeds(isPacked: true).map { [0, 0, 1] + $0 }
    private static let turns = 6

    private let rig: QueueRig
    private let loop: EventLoop
    private let kick: EventFD
    private let call: EventFD
    /// Files that give zeroes, and nothing.
    private let sources: [String]
    private let empty: SharedFD

    init() throws {
        rig = try QueueRig()
        loop = try EventLoop()
        kick = try EventFD()
        call = try EventFD()
        empty = SharedFD(try MemFD(name: "empty", size: 0).fd.duplicate())
        sources = ["/dev/zero", "/proc/self/fd/\(empty.rawValue)"]
    }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        var options = try RandomOptions(RandomOptions.schema.parse(""))
        options.path = sources[input.rarely(16) ? 1 : 0]
        if input.rarely(4) { options.bytesPerPeriod = input.edge() | 1 }
        var (ring, setup) = try rig.prepare(&input, isPacked: input.flag())
        setup.kick = kick
        setup.call = call
        setup.error = try EventFD()
        let device = try RandomDevice(
            RandomSource(RandomSource.open(options), options), options, loop: loop)
        defer { device.reset() }
        guard (try? device.startQueue(0, setup)) != nil else { return false }
        var wasCalled = false
        for _ in 0..<Self.turns {
            loop.runOnce(timeoutMilliseconds: 0)
            if call.drain() { wasCalled = true }
            if input.rarely(4) { rig.fill(ring, &input) }
            if input.flag() { kick.signal() }
        }
        let isBroken = setup.error?.drain() == true
        // A queue that broke stays so, and is not served any more.
        kick.signal()
        call.drain()
        loop.runOnce(timeoutMilliseconds: 0)
        try require(!isBroken || !call.drain(), "a broken queue is served")
        kick.drain()
        return wasCalled
    }
}
