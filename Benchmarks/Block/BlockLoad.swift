import CLinux
import Core
import Foundation
import Synchronization
import TestSupport

/// Random transfers of one size, a fixed number of them under way on each of several queues. Each
/// queue has a thread, which sleeps until the device calls.
struct BlockLoad: Sendable {
    var depth = 1
    var transferSize = 4096
    var isWrite = false
    var queueCount = 1
    var nanoseconds: UInt64 = 1_000_000_000

    struct Result: Sendable {
        var operations = 0
        /// Requests that the device failed.
        var errors = 0
        /// The time that the load took, in nanoseconds.
        var elapsed: UInt64 = 0
        var latencies = LatencyHistogram()

        /// Takes in what another run measured.
        mutating func merge(_ other: Result) {
            operations += other.operations
            errors += other.errors
            latencies.merge(other.latencies)
        }
    }

    private struct Slot {
        /// Header, data and status.
        var buffers: [DriverBuffer]
        var start: UInt64 = 0

        var header: GuestAddress { buffers[0].address }
        var status: GuestAddress { buffers[2].address }
    }

    /// What one thread works with.
    private struct Lane {
        let driver: DriverQueue
        var slots: [Slot]
        let kick: EventFD
        let call: EventFD
    }

    /// Entries of a ring: three for each request, and no indirect tables.
    private static let ringSize: UInt16 = 256

    /// Runs against the back end that listens at `path`.
    /// - Parameter measured: called when the load begins and when it has ended.
    func run(path: String, measured: () -> Void) throws -> Result {
        let client = try VhostUserClient(path: path)
        // With FLUSH, writes may stay in the cache.
        try client.negotiate(
            VirtioFeature.eventIndex | VirtioFeature.version1 | 1 << 9
                | (queueCount > 1 ? 1 << 12 : 0))
        let config = try client.config(offset: 0, count: 36)
        let places = VhostUserClient.value(config, 0, UInt64.self) * 512 / UInt64(transferSize)
        let scratch = try ScratchMemory(
            size: UInt64(queueCount * (depth * (transferSize + 8192) + (1 << 20))) & ~4095)
        let lanes = try (0..<queueCount).map { _ in
            try makeLane(scratch, features: client.features)
        }
        try client.share(scratch.memory)
        for (index, lane) in lanes.enumerated() {
            try client.start(UInt32(index), lane.driver, kick: lane.kick, call: lane.call)
        }
        measured()
        let result = try drive(lanes, scratch.memory, places: max(places, 1))
        measured()
        for index in lanes.indices { try client.stop(UInt32(index)) }
        return result
    }

    private func makeLane(_ scratch: ScratchMemory, features: UInt64) throws -> Lane {
        let slots = (0..<depth).map { _ in
            let data = scratch.allocate(transferSize, alignment: 4096)
            return Slot(buffers: [
                scratch.buffer(16), DriverBuffer(data, UInt32(transferSize)), scratch.buffer(1),
            ])
        }
        let driver = DriverQueue(scratch, size: Self.ringSize, features: features)
        return Lane(driver: driver, slots: slots, kick: try EventFD(), call: try EventFD())
    }

    private func drive(
        _ lanes: [Lane], _ memory: GuestMemory, places: UInt64
    ) throws -> Result {
        let total = Mutex(Result())
        let failure = Mutex<String?>(nil)
        let start = Clock.monotonic()
        let threads = try lanes.enumerated().map { index, lane in
            // SAFETY: a lane belongs to its thread alone until that has been joined.
            nonisolated(unsafe) let lane = lane
            return try Core.Thread(name: "lane \(index)") { [self] in
                do {
                    let seed = UInt64(index + 1) &* 0x9e37_79b9_7f4a_7c15
                    let result = try unsafe drive(lane, memory, seed: seed, places: places)
                    total.withLock { $0.merge(result) }
                } catch {
                    failure.withLock { $0 = "\(error)" }
                }
            }
        }
        for thread in threads { thread.join() }
        if let failure = failure.withLock({ $0 }) { throw VhostUserClient.Failure(failure) }
        var result = total.withLock { $0 }
        result.elapsed = Clock.monotonic() - start
        return result
    }

    private func drive(
        _ lane: Lane, _ memory: GuestMemory, seed: UInt64, places: UInt64
    ) throws -> Result {
        var result = Result()
        var slots = lane.slots
        var random = seed
        var free = Array(slots.indices)
        let end = Clock.monotonic() + nanoseconds
        while true {
            let now = Clock.monotonic()
            if now >= end && free.count == slots.count { return result }
            while now < end, let index = free.popLast() {
                random ^= random << 13
                random ^= random >> 7
                random ^= random << 17
                let sector = random % places * UInt64(transferSize / 512)
                try memory.write(slots[index].header, UInt64(isWrite ? 1 : 0))
                try memory.write(GuestAddress(slots[index].header.rawValue + 8), sector)
                slots[index].start = Clock.monotonic()
                let buffers = slots[index].buffers
                lane.driver.add(
                    buffers.span, readableCount: isWrite ? 2 : 1, token: UInt64(index))
            }
            if lane.driver.publish() { lane.kick.signal() }
            while let used = try lane.driver.popUsed() {
                let index = Int(used.token)
                if try memory.read(slots[index].status, as: UInt8.self) != 0 { result.errors += 1 }
                result.latencies.add(Clock.monotonic() - slots[index].start)
                result.operations += 1
                free.append(index)
            }
            if free.isEmpty || now >= end && free.count < slots.count,
                !lane.driver.enableCalls()
            {
                guard clinux_poll_two(lane.call.rawValue, Int16(POLLIN), -1, 0, 5000) != 0 else {
                    throw VhostUserClient.Failure("the device does not answer")
                }
                lane.call.drain()
            }
        }
    }
}
