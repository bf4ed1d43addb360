import Core
import TestSupport

/// A driver of a block device (VIRTIO 1.3, section 5.2.6), which needs 1 MiB of it.
final class BlockDriver: DeviceDriver {
    static let requestQueue = 0
    private static let depth = 8
    private static let size = 4096

    private struct Slot {
        let header: DriverBuffer
        let data: DriverBuffer
        let status: DriverBuffer
    }

    private let memory: GuestMemory
    private let isReadOnly: Bool
    private let canFlush: Bool
    private let slots: [Slot]
    private var seed: UInt8 = 0
    private var launched: [(sector: UInt64, contents: [UInt8])] = []

    init(_ scratch: ScratchMemory, features: UInt64) {
        memory = scratch.memory
        isReadOnly = features & 1 << 5 != 0
        canFlush = features & 1 << 9 != 0
        slots = (0..<Self.depth).map { _ in
            let data = scratch.allocate(Self.size, alignment: 4096)
            return Slot(
                header: scratch.buffer(16), data: DriverBuffer(data, UInt32(Self.size)),
                status: scratch.buffer(1))
        }
    }

    var written: DriverBuffer? { slots[0].data }

    private enum Kind: UInt32 { case read = 0, write = 1, flush = 4 }

    private func add(_ kind: Kind, _ slot: Int, sector: UInt64, _ lane: Lane) throws {
        let place = slots[slot]
        try memory.write(place.header.address, UInt64(kind.rawValue))
        try memory.write(GuestAddress(place.header.address.rawValue + 8), sector)
        try memory.write(place.status.address, UInt8(0xff))
        let isWrite = kind == .write
        let data = kind == .flush ? [] : [place.data]
        lane.queue.add(
            readable: [place.header] + (isWrite ? data : []),
            writable: (isWrite ? [] : data) + [place.status], token: UInt64(slot))
    }

    private func pattern() -> [UInt8] {
        seed = seed % 251 + 1
        return (0..<Self.size).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) ^ seed }
    }

    private func complete(_ count: Int, _ lane: Lane, _ timeout: UInt64) throws {
        if lane.queue.publish() { lane.kick.signal() }
        for used in try collect(count, lane, timeoutMilliseconds: timeout) {
            let status = try memory.read(slots[Int(used.token)].status.address, as: UInt8.self)
            guard status == 0 else { throw Failure("a request has status \(status)") }
        }
    }

    /// Writes, flushes, and reads what it has written.
    func check(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        let contents = pattern()
        if !isReadOnly {
            try memory.write(slots[0].data.address, contents)
            try add(.write, 0, sector: 8, lane)
            try complete(1, lane, timeoutMilliseconds)
            try memory.write(slots[0].data.address, [UInt8](repeating: 0, count: Self.size))
        }
        try add(.read, 0, sector: 8, lane)
        if canFlush { try add(.flush, 1, sector: 0, lane) }
        try complete(canFlush ? 2 : 1, lane, timeoutMilliseconds)
        let result = try memory.readBytes(slots[0].data.address, count: Self.size)
        guard isReadOnly || contents == result else {
            throw Failure("what is read is not what was written")
        }
    }

    func launch(_ lane: Lane) {
        launched = []
        do {
            for slot in slots.indices {
                let sector = 64 + 8 * UInt64(slot)
                launched.append((sector, pattern()))
                try memory.write(slots[slot].data.address, launched[slot].contents)
                try add(isReadOnly ? .read : .write, slot, sector: sector, lane)
            }
        } catch { preconditionFailure("\(error)") }
        if lane.queue.publish() { lane.kick.signal() }
    }

    func finish(_ lane: Lane, timeoutMilliseconds: UInt64) throws {
        try complete(slots.count, lane, timeoutMilliseconds)
        guard !isReadOnly else { return }
        for slot in slots.indices { try add(.read, slot, sector: launched[slot].sector, lane) }
        try complete(slots.count, lane, timeoutMilliseconds)
        for (slot, (sector, contents)) in zip(slots, launched) {
            guard contents == (try memory.readBytes(slot.data.address, count: 4096)) else {
                throw Failure("a write to sector \(sector) that was under way is lost")
            }
        }
    }
}
