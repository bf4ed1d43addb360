import Core
import TestSupport

/// A driver of an entropy device (VIRTIO 1.3, section 5.4).
final class RandomDriver: DeviceDriver {
    static let requestQueue = 0
    private static let depth = 8
    private static let size: UInt32 = 256

    private let memory: GuestMemory
    private let buffers: [DriverBuffer]

    init(_ scratch: ScratchMemory) {
        memory = scratch.memory
        buffers = (0..<Self.depth).map { _ in scratch.buffer(Int(Self.size)) }
    }

    var written: DriverBuffer? { buffers[0] }

    private func add(_ slot: Int, _ lane: Lane) {
        let zeroes = [UInt8](repeating: 0, count: Int(Self.size))
        do {
            try memory.write(buffers[slot].address, zeroes)
        } catch { preconditionFailure("\(error)") }
        lane.queue.add(readable: [], writable: [buffers[slot]], token: UInt64(slot))
    }

    /// Waits for `count` buffers, which must have been filled.
    private func complete(_ count: Int, _ lane: Lane, _ timeout: UInt64) throws {
        for used in try collect(count, lane, timeoutMilliseconds: timeout) {
            guard used.written == Self.size else {
                throw Failure("a buffer of \(Self.size) bytes gets \(used.written)")
            }
            let bytes = try memory.readBytes(
                buffers[Int(used.token)].address, count: Int(Self.size))
            // 256 random bytes have about 162 values.
            guard Set(bytes).count > 64 else { throw Failure("the bytes are not random") }
        }
    }

    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        add(0, lane)
        if lane.queue.publish() { lane.kick.signal() }
        try complete(1, lane, timeoutMilliseconds)
    }

    func launch(_ lane: Lane) {
        for slot in buffers.indices { add(slot, lane) }
        if lane.queue.publish() { lane.kick.signal() }
    }

    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        try complete(buffers.count, lane, timeoutMilliseconds)
    }
}
