import Core
import Glibc
import TestSupport
import Testing
import VhostUser

/// A driver of a virtio block device (VIRTIO 1.3, section 5.2.6) with one queue.
final class BlockDriver {
    let queue: DriverQueue
    let kick: EventFD
    let call: EventFD
    private let scratch: ScratchMemory
    private var statuses: [UInt64: DriverBuffer] = [:]
    private var places: [UInt64: UInt64] = [:]
    private var nextToken: UInt64 = 0

    init(_ scratch: ScratchMemory, features: UInt64, size: UInt16 = 64) throws {
        self.scratch = scratch
        queue = DriverQueue(scratch, size: size, features: features, tableSize: 4)
        kick = try EventFD()
        call = try EventFD()
    }

    var setup: QueueSetup { queue.setup(scratch.memory, kick: kick, call: call) }

    private func header(_ type: UInt32, sector: UInt64) -> DriverBuffer {
        scratch.place(littleEndian(type, 0) + littleEndian(sector))
    }

    func write(_ contents: [UInt8], sector: UInt64) {
        send([header(1, sector: sector), scratch.place(contents)], [])
        places[nextToken] = sector
    }

    func read(_ count: Int, sector: UInt64) -> DriverBuffer {
        let buffer = scratch.buffer(count)
        send([header(0, sector: sector)], [buffer])
        return buffer
    }

    private func send(_ readable: [DriverBuffer], _ writable: [DriverBuffer]) {
        let status = scratch.place([0xff])
        nextToken += 1
        statuses[nextToken] = status
        queue.add(
            readable: readable, writable: writable + [status], style: .indirect, token: nextToken)
        if queue.publish() { kick.signal() }
    }

    /// How many requests are under way.
    var openCount: Int { statuses.count }

    /// Whether a write to that sector is under way.
    func isWriting(_ sector: UInt64) -> Bool { places.values.contains(sector) }

    /// Takes what the device has finished. Requests that failed stay open; one that is finished
    /// twice is an error.
    func collect() throws {
        while let used = try queue.popUsed() {
            let status = statuses[used.token]
            if try scratch.bytes(#require(status)) == [0] {
                statuses[used.token] = nil
                places[used.token] = nil
            }
        }
    }

    /// Whether everything succeeds soon.
    func finishes(_ loop: EventLoop) throws -> Bool {
        var failure: (any Error)?
        let isDone = loop.run(timeoutMilliseconds: 20_000) {
            do {
                repeat { try collect() } while queue.enableCalls()
            } catch {
                failure = error
            }
            if statuses.isEmpty || failure != nil { return true }
            Clock.sleep(milliseconds: 1)
            loop.post {}
            return false
        }
        if let failure { throw failure }
        return isDone
    }
}
