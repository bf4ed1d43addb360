import BenchmarkSupport
import Core
import TestSupport

/// A driver that has started the queues of a disk, each with a load.
final class BlockSession {
    private let client: VhostUserClient
    private let lanes: [Lane]
    private let loads: [BlockLoad]

    /// Entries of a ring: three for each request, and no indirect tables.
    private static let ringSize: UInt16 = 256

    /// Connects to the device at `path`.
    init(path: String, queueCount: Int, _ shape: BlockLoad.Shape) throws {
        client = try VhostUserClient(path: path)
        // With FLUSH, writes may stay in the cache.
        try client.negotiate(
            VirtioFeature.eventIndex | VirtioFeature.version1 | 1 << 9
                | (queueCount > 1 ? 1 << 12 : 0))
        let config = try client.config(offset: 0, count: 36)
        let diskSize = VhostUserClient.value(config, 0, UInt64.self) * 512
        let scratch = try ScratchMemory(
            size: UInt64(queueCount * (BlockLoad.memorySize(shape) + 1 << 20)) & ~4095)
        let features = client.features
        loads = (0..<queueCount).map {
            BlockLoad(shape, scratch, diskSize: diskSize, seed: $0)
        }
        lanes = try loads.map { _ in
            try Lane(DriverQueue(scratch, size: Self.ringSize, features: features))
        }
        try client.share(scratch.memory)
        for (index, lane) in lanes.enumerated() {
            try client.start(UInt32(index), lane.queue, kick: lane.kick, call: lane.call)
        }
    }

    deinit {
        // Rings stand still before the memory goes.
        for index in lanes.indices { _ = try? client.stop(UInt32(index)) }
    }

    func run(nanoseconds: UInt64) throws -> LoadResult {
        try runLoads(loads, on: lanes, nanoseconds: nanoseconds)
    }
}
