internal import CLinux
public import Core
internal import Glibc

/// Measures a vhost-user block back end: random transfers of one size, a fixed number of them
/// under way, on one queue, sleeping until the device calls.
public struct BlockLoad: Sendable {
    public var depth = 1
    public var transferSize = 4096
    public var isWrite = false
    public var milliseconds: UInt64 = 1000
    /// Features besides VERSION_1 and those that make no difference.
    public var ringFeatures = VirtioFeature.eventIndex

    public init() {}

    public struct Result: Sendable {
        public var operations: Int
        public var nanoseconds: UInt64
        /// Requests that the device failed.
        public var errors: Int
        /// How often the driver kicked and was called.
        public var kicks: Int
        public var calls: Int

        public var perSecond: Double { Double(operations) * 1e9 / Double(max(nanoseconds, 1)) }
    }

    /// Runs against the back end that listens at `path`.
    public func run(path: String) throws -> Result {
        let client = try VhostUserClient(path: path)
        // With FLUSH, writes may stay in the cache.
        try client.negotiate(ringFeatures | VirtioFeature.version1 | 1 << 9)
        let config = try client.config(offset: 0, count: 36)
        let capacity = VhostUserClient.value(config, 0, UInt64.self)
        let result = try run(features: client.features, capacity: capacity) {
            driver, memory, kick, call in
            try client.share(memory)
            try client.start(0, driver, kick: kick, call: call)
        }
        try client.stop(0)
        return result
    }

    /// Runs against a device of `capacity` sectors, whose queue `start` starts.
    public func run(
        features: UInt64, capacity: UInt64,
        start: (DriverQueue, GuestMemory, _ kick: EventFD, _ call: EventFD) throws -> Void
    ) throws -> Result {
        let scratch = try ScratchMemory(
            size: UInt64((depth * (transferSize + 8192) + (1 << 20)) & ~4095))
        let driver = DriverQueue(scratch, size: 128, features: features)
        let kick = try EventFD()
        let call = try EventFD()
        let slots = (0..<depth).map { _ in
            Slot(
                header: scratch.buffer(16),
                data: DriverBuffer(
                    scratch.allocate(transferSize, alignment: 4096), UInt32(transferSize)),
                status: scratch.buffer(1))
        }
        try start(driver, scratch.memory, kick, call)
        return try drive(
            driver, slots, kick: kick, call: call, memory: scratch.memory,
            places: max(capacity * 512 / UInt64(transferSize), 1))
    }

    private struct Slot {
        var header: DriverBuffer
        var data: DriverBuffer
        var status: DriverBuffer
    }

    private func drive(
        _ driver: DriverQueue, _ slots: [Slot], kick: EventFD, call: EventFD, memory: GuestMemory,
        places: UInt64
    ) throws -> Result {
        var result = Result(operations: 0, nanoseconds: 0, errors: 0, kicks: 0, calls: 0)
        var random: UInt64 = 0x9e37_79b9_7f4a_7c15
        var free = Array(slots.indices)
        let start = Clock.monotonic()
        let end = start + milliseconds * 1_000_000
        while true {
            let now = Clock.monotonic()
            if now >= end && free.count == slots.count { break }
            while now < end, let index = free.popLast() {
                random ^= random << 13
                random ^= random >> 7
                random ^= random << 17
                let sector = random % places * UInt64(transferSize / 512)
                try submit(driver, slots[index], sector: sector, token: UInt64(index), memory)
            }
            if driver.publish() {
                result.kicks += 1
                kick.signal()
            }
            while let used = try driver.popUsed() {
                let index = Int(used.token)
                if try memory.read(slots[index].status.address, as: UInt8.self) != 0 {
                    result.errors += 1
                }
                result.operations += 1
                free.append(index)
            }
            if free.isEmpty, !driver.enableCalls() {
                guard clinux_poll_two(call.rawValue, Int16(POLLIN), -1, 0, 5000) != 0 else {
                    throw VhostUserClient.Failure("the device does not answer")
                }
                call.drain()
                result.calls += 1
            }
        }
        result.nanoseconds = Clock.monotonic() - start
        return result
    }

    private func submit(
        _ driver: DriverQueue, _ slot: Slot, sector: UInt64, token: UInt64, _ memory: GuestMemory
    ) throws {
        try memory.write(slot.header.address, UInt64(isWrite ? 1 : 0))
        try memory.write(
            GuestAddress(slot.header.address.rawValue + 8), sector)
        let buffers = [slot.header, slot.data, slot.status]
        driver.add(buffers.span, readableCount: isWrite ? 2 : 1, token: token)
    }
}
