import Core
import TestSupport

/// A driver of a file system device (VIRTIO 1.3, section 5.11), which speaks FUSE.
final class FSDriver: DeviceDriver {
    /// Behind the queue for urgent requests.
    static let requestQueue = 1
    private static let depth = 8

    private enum Operation: UInt32 { case getAttributes = 3, start = 26 }

    private let memory: GuestMemory
    private let requests: [DriverBuffer]
    private let replies: [DriverBuffer]
    private var hasStarted = false
    private var nextID: UInt64 = 1

    init(_ scratch: ScratchMemory) {
        memory = scratch.memory
        requests = (0..<Self.depth).map { _ in scratch.buffer(40 + 64) }
        replies = (0..<Self.depth).map { _ in scratch.buffer(16 + 104) }
    }

    var written: DriverBuffer? { replies[0] }

    private func add(_ operation: Operation, _ slot: Int, _ lane: Lane) {
        let body: [UInt8] =
            operation == .start
            // Version 7.31, read-ahead, no flags.
            ? littleEndian(7, 31, 65536, 0 as UInt32)
            : [UInt8](repeating: 0, count: 16)
        let bytes =
            littleEndian(UInt32(40 + body.count), operation.rawValue)
            + littleEndian(nextID, 1 as UInt64)  // the root's number
            + [UInt8](repeating: 0, count: 16) + body
        nextID += 1
        do {
            try memory.write(requests[slot].address, bytes)
            try memory.write(replies[slot].address, [UInt8](repeating: 0, count: 120))
        } catch { preconditionFailure("\(error)") }
        lane.queue.add(
            readable: [DriverBuffer(requests[slot].address, UInt32(bytes.count))],
            writable: [
                DriverBuffer(replies[slot].address, operation == .start ? 16 + 64 : 16 + 104)
            ], token: UInt64(slot))
    }

    /// Waits for `count` replies, which must be good.
    private func complete(_ count: Int, _ lane: Lane, _ timeout: UInt64) throws {
        if lane.queue.publish() { lane.kick.signal() }
        for used in try collect(count, lane, timeoutMilliseconds: timeout) {
            let reply = try memory.readBytes(replies[Int(used.token)].address, count: 120)
            let size = VhostUserClient.value(reply, 0, UInt32.self)
            let error = VhostUserClient.value(reply, 4, Int32.self)
            guard error == 0, size > 16, size == used.written else {
                throw Failure("FUSE answers with error \(error) and \(size) bytes")
            }
        }
    }

    /// Starts a FUSE session, the first time, and asks for the root's attributes.
    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        if !hasStarted {
            add(.start, 0, lane)
            try complete(1, lane, timeoutMilliseconds)
            hasStarted = true
        }
        add(.getAttributes, 0, lane)
        try complete(1, lane, timeoutMilliseconds)
        // The mode follows the reply's header, the validity and seven fields.
        let mode = try memory.read(
            GuestAddress(replies[0].address.rawValue + 16 + 16 + 60), as: UInt32.self)
        guard mode & 0xf000 == 0x4000 else { throw Failure("the root is no folder") }
    }

    func launch(_ lane: Lane) {
        for slot in requests.indices { add(.getAttributes, slot, lane) }
        if lane.queue.publish() { lane.kick.signal() }
    }

    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        try complete(requests.count, lane, timeoutMilliseconds)
    }
}
