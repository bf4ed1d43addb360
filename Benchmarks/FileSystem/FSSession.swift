import BenchmarkSupport
import Core
import TestSupport

/// A driver that has begun a session with a file system device.
final class FSSession {
    /// What a lane's requests need: room for each, and where they work.
    struct Room {
        let calls: [FUSECall]
        let folders: [UInt64]
    }

    let lanes: [Lane]
    private(set) var rooms: [Room] = []
    private let client: VhostUserClient
    private var control: FUSECall
    private let firstLane: Lane

    private static let ringSize: UInt16 = 128
    /// Buffers of a request with 1 MiB, and some.
    private static let tableSize = 264
    /// What Linux 6.1 asks for, of what matters here: ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES,
    /// AUTO_INVAL_DATA, DO_READDIRPLUS, READDIRPLUS_AUTO, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES.
    private static let abilities: UInt32 =
        1 << 0 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 18 | 1 << 22

    /// Connects to the device at `path`.
    /// - Parameters:
    ///   - depth: operations under way on each queue.
    ///   - dataSize: bytes that each can carry.
    init(path: String, queueCount: Int, depth: Int, dataSize: Int) throws {
        client = try VhostUserClient(path: path)
        try client.negotiate(
            VirtioFeature.eventIndex | VirtioFeature.version1 | VirtioFeature.indirectDescriptors)
        let perLane = depth * (dataSize + 8192) + 16 * Int(Self.ringSize) * Self.tableSize
        let scratch = try ScratchMemory(
            size: UInt64((queueCount + 1) * (perLane + (1 << 20))) & ~4095)
        let features = client.features
        // The first queue is for requests that overtake others.
        let all = try (0...queueCount).map { _ in
            try Lane(
                DriverQueue(
                    scratch, size: Self.ringSize, features: features, tableSize: Self.tableSize))
        }
        lanes = Array(all.dropFirst())
        firstLane = lanes[0]
        control = FUSECall(scratch, dataSize: 4096)
        try client.share(scratch.memory)
        for (index, lane) in all.enumerated() {
            try client.start(UInt32(index), lane.queue, kick: lane.kick, call: lane.call)
        }
        try begin()
        for lane in 0..<queueCount {
            let folders = try (0..<depth).map {
                try lookUp(["work", BenchmarkFolder.name(of: lane * depth + $0)])
            }
            rooms.append(
                Room(
                    calls: (0..<depth).map { _ in FUSECall(scratch, dataSize: dataSize) },
                    folders: folders))
        }
    }

    deinit {
        // Rings stand still before the memory goes.
        for index in 0...lanes.count { _ = try? client.stop(UInt32(index)) }
    }

    private func begin() throws {
        try control.begin(.start, 0)
        try control.put(7 as UInt32)
        try control.put(36 as UInt32)
        try control.put(1 << 20 as UInt32)
        try control.put(Self.abilities)
        for _ in 0..<6 { try control.put(0 as UInt64) }
        guard try answer(64) >= 24 else {
            throw VhostUserClient.Failure("the device does not know FUSE 7.31")
        }
    }

    /// The number of the file at a path.
    func lookUp(_ path: [String]) throws -> UInt64 {
        try path.reduce(1) { folder, name in
            try control.begin(.lookUp, folder)
            try control.put(name: Array(name.utf8))
            _ = try answer(FUSESize.entry)
            return try control.value(at: 0)
        }
    }

    /// Opens a file for reading and writing.
    func open(_ node: UInt64) throws -> UInt64 {
        try control.begin(.open, node)
        try control.put(2 as UInt64)  // O_RDWR
        _ = try answer(FUSESize.opened)
        return try control.value(at: 0)
    }

    private func answer(_ replySize: UInt32) throws -> Int {
        try control.send(to: firstLane.queue, replySize: replySize)
        if firstLane.queue.publish() { firstLane.kick.signal() }
        guard let used = try firstLane.queue.awaitUsed(firstLane.call) else {
            throw VhostUserClient.Failure("the device does not answer")
        }
        return try control.check(written: used.written)
    }
}
