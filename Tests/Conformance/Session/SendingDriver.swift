import Core
import TestSupport

/// A driver that only sends: lines to a console's first port (VIRTIO 1.3, section 5.3), frames to a
/// network interface (5.1) or packets to a socket device (5.10). They are taken, and that is all.
final class SendingDriver: DeviceDriver {
    /// The queue before it is for what comes; nothing does.
    static let requestQueue = 1
    private static let depth = 8

    private let messages: [DriverBuffer]

    let written: DriverBuffer? = nil

    /// - Parameter message: the bytes of the message of that number.
    init(_ scratch: ScratchMemory, _ message: (Int) -> [UInt8]) {
        messages = (0..<Self.depth).map { scratch.place(message($0)) }
    }

    private func send(_ message: Int, _ lane: Lane) {
        lane.queue.add(readable: [messages[message]], writable: [], token: UInt64(message))
        if lane.queue.publish() { lane.kick.signal() }
    }

    /// Waits for `count` messages to be taken, each once and without an answer.
    private func complete(_ count: Int, _ lane: Lane, _ timeout: UInt64) throws {
        let used = try collect(count, lane, timeoutMilliseconds: timeout)
        guard used.map(\.token).sorted() == (0..<UInt64(count)).map({ $0 }) else {
            throw Failure("other messages are taken than were sent")
        }
        guard used.allSatisfy({ $0.written == 0 }) else {
            throw Failure("something is said to be written into what was sent")
        }
    }

    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        send(0, lane)
        try complete(1, lane, timeoutMilliseconds)
    }

    func launch(_ lane: Lane) {
        for message in messages.indices { send(message, lane) }
    }

    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        try complete(messages.count, lane, timeoutMilliseconds)
    }
}

extension SendingDriver {
    static func line(_ number: Int) -> [UInt8] { Array("line \(number)\r\n".utf8) }

    /// The header without offloads (VIRTIO 1.3, section 5.1.6), and a broadcast of a local
    /// experimental protocol (IEEE 802).
    static func frame(_ number: Int) -> [UInt8] {
        [UInt8](repeating: 0, count: 12) + [UInt8](repeating: 0xff, count: 6)
            + [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x88, 0xb5]
            + [UInt8](repeating: UInt8(number), count: 46)
    }

    /// The end of a connection that does not exist, which is not answered.
    static func packet(_ number: Int) -> [UInt8] {
        littleEndian(3, 2 as UInt64) + littleEndian(1000 + UInt32(number), 80, 0)
            + littleEndian(1, 3 as UInt16) + littleEndian(0, 0, 0 as UInt32)
    }
}
