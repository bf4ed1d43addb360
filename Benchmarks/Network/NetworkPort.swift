import BenchmarkSupport
import Core
import TestSupport

/// A network interface as its driver has it: a queue in each direction, in memory that the device
/// sees as well. It is looked at again and again; nobody has to call.
protocol NetworkPort: AnyObject {
    var scratch: ScratchMemory { get }
    var receiving: DriverQueue { get }
    var transmitting: DriverQueue { get }

    /// Wakes the device.
    func kick(_ direction: Direction)
}

/// Queue numbers.
enum Direction: Int {
    case receive = 0
    case transmit = 1
}

/// What is agreed on with every device that has it: checksums and segments are left to it
/// (CSUM, HOST_TSO4), and large frames may take several buffers (MRG_RXBUF).
enum NetworkSetting {
    static let features =
        VirtioFeature.eventIndex | VirtioFeature.version1 | 1 << 0 | 1 << 11 | 1 << 15
    static let ringSize: UInt16 = 256
    static let memorySize: UInt64 = 64 << 20
}

/// One that a vhost-user back end serves.
final class VhostUserPort: NetworkPort {
    let scratch: ScratchMemory
    let receiving: DriverQueue
    let transmitting: DriverQueue
    private let client: VhostUserClient
    private let lanes: [Lane]

    /// Connects to the back end at `path`.
    init(path: String) throws {
        client = try VhostUserClient(path: path)
        try client.negotiate(NetworkSetting.features)
        scratch = try ScratchMemory(size: NetworkSetting.memorySize)
        let (scratch, features) = (scratch, client.features)
        lanes = try (0..<2).map { _ in
            try Lane(DriverQueue(scratch, size: NetworkSetting.ringSize, features: features))
        }
        receiving = lanes[0].queue
        transmitting = lanes[1].queue
        try client.share(scratch.memory)
        for (index, lane) in lanes.enumerated() {
            lane.queue.disableCalls()
            try client.start(UInt32(index), lane.queue, kick: lane.kick, call: lane.call)
        }
    }

    deinit {
        // Rings stand still before the memory goes.
        for index in lanes.indices { _ = try? client.stop(UInt32(index)) }
    }

    func kick(_ direction: Direction) { lanes[direction.rawValue].kick.signal() }
}
