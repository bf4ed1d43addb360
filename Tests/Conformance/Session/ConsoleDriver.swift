import Core
import TestSupport

/// A driver of a console device (VIRTIO 1.3, section 5.3), which prints at its first port.
final class ConsoleDriver: DeviceDriver {
    /// What is printed; what is typed comes on the queue before it.
    static let requestQueue = 1
    private static let depth = 8

    private let lines: [DriverBuffer]

    /// Nothing is typed.
    let written: DriverBuffer? = nil

    init(_ scratch: ScratchMemory) {
        lines = (0..<Self.depth).map { scratch.place(Array("line \($0)\r\n".utf8)) }
    }

    private func print(_ line: Int, _ lane: Lane) {
        lane.queue.add(readable: [lines[line]], writable: [], token: UInt64(line))
        if lane.queue.publish() { lane.kick.signal() }
    }

    /// Waits for `count` lines to be taken, each once and without an answer.
    private func complete(_ count: Int, _ lane: Lane, _ timeout: UInt64) throws {
        let used = try collect(count, lane, timeoutMilliseconds: timeout)
        guard used.map(\.token).sorted() == (0..<UInt64(count)).map({ $0 }) else {
            throw Failure("other lines are taken than were printed")
        }
        guard used.allSatisfy({ $0.written == 0 }) else {
            throw Failure("something is said to be written into what was printed")
        }
    }

    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        print(0, lane)
        try complete(1, lane, timeoutMilliseconds)
    }

    func launch(_ lane: Lane) {
        for line in lines.indices { print(line, lane) }
    }

    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        try complete(lines.count, lane, timeoutMilliseconds)
    }
}
