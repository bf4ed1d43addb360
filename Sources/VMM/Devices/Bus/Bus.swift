package import Accelerator
internal import Synchronization

/// Which device answers which address: the ports' or the memory's side of a machine.
///
/// A vCPU finds the device without a lock and without writing to shared memory: the table of
/// claimed ranges is read under a generation counter (a sequence lock), and the search starts
/// again if a change came in between. Changes are rare: devices come and go, BARs move.
///
/// The guest can move BARs as often as it likes, so that changes the table in place. A new device
/// needs a new table; the old one stays until `reclaim`, because a vCPU may still be reading it.
// SAFETY: `current` always refers to a table that `changes.tables` keeps alive.
@safe package final class Bus: Sendable {
    /// Names one claimed range.
    package struct Handle: Hashable, Sendable {
        fileprivate let id: Int
    }

    private struct Entry {
        let id: Int
        let device: any BusDevice
        let length: UInt64
        var start: UInt64?

        /// The last address; the range was checked not to wrap.
        func last(from start: UInt64) -> UInt64 { start &+ (length &- 1) }
    }

    private struct Changes {
        var entries: [Entry] = []
        var nextID = 0
        /// The current table is the last one.
        var tables: [BusTable] = []
    }

    private let changes: Mutex<Changes>
    private let generation = Atomic<UInt64>(0)
    private let current: Atomic<Unmanaged<BusTable>>

    package init() {
        let table = BusTable(devices: [])
        changes = Mutex(Changes(tables: [table]))
        unsafe current = Atomic(Unmanaged.passUnretained(table))
    }

    /// Reads; all ones where no single device claims all bytes.
    package func read(_ address: UInt64, size: Int) -> UInt64 {
        guard let (device, offset) = find(address, size: size) else { return allOnes(size) }
        return device.read(offset: offset, size: size) & allOnes(size)
    }

    /// Writes; ignored where no single device claims all bytes.
    package func write(_ address: UInt64, size: Int, _ value: UInt64) -> MachineEffect {
        guard let (device, offset) = find(address, size: size) else { return .none }
        return device.write(offset: offset, size: size, value & allOnes(size))
    }

    private func find(_ address: UInt64, size: Int) -> (any BusDevice, UInt64)? {
        while true {
            let before = generation.load(ordering: .acquiring)
            if before & 1 != 0 { continue }
            // SAFETY: tables live until `reclaim`, which is called while nobody is in here.
            let found = unsafe current.load(ordering: .acquiring)._withUnsafeGuaranteedRef {
                $0.find(address, size: size)
            }
            atomicMemoryFence(ordering: .acquiring)
            if generation.load(ordering: .relaxed) == before { return found }
        }
    }

    /// Gives a range to `device`. Without `start` the device is known but not reachable yet.
    /// - Returns: `nil` if the range is empty, wraps, or overlaps another one.
    @discardableResult
    package func attach(_ device: any BusDevice, start: UInt64?, length: UInt64) -> Handle? {
        changes.withLock { changes in
            guard length > 0 else { return nil }
            let entry = Entry(id: changes.nextID, device: device, length: length, start: nil)
            if let start, !Self.isFree(start, entry, changes.entries) { return nil }
            changes.nextID += 1
            changes.entries.append(entry)
            changes.entries[changes.entries.count - 1].start = start
            replaceTable_locked(&changes)
            return Handle(id: entry.id)
        }
    }

    /// Moves a range; `nil` makes it unreachable.
    /// - Returns: `false` if the new place is not free. The range is unreachable then.
    @discardableResult
    package func move(_ handle: Handle, to start: UInt64?) -> Bool {
        changes.withLock { changes in
            guard let index = changes.entries.firstIndex(where: { $0.id == handle.id }) else {
                return false
            }
            let entry = changes.entries[index]
            let isPossible = start.map { Self.isFree($0, entry, changes.entries) } ?? true
            let place = isPossible ? start : nil
            guard place != entry.start else { return isPossible }
            changes.entries[index].start = place
            fill_locked(&changes)
            return isPossible
        }
    }

    /// Takes a range away. An access that has already found the device may still reach it.
    package func detach(_ handle: Handle) {
        changes.withLock { changes in
            changes.entries.removeAll { $0.id == handle.id }
            replaceTable_locked(&changes)
        }
    }

    /// Forgets earlier tables, and with them devices that have been unplugged. Call it when no vCPU
    /// is in an access.
    package func reclaim() {
        changes.withLock { changes in
            changes.tables.removeFirst(changes.tables.count - 1)
        }
    }

    private static func isFree(_ start: UInt64, _ entry: Entry, _ entries: [Entry]) -> Bool {
        guard start <= UInt64.max - (entry.length - 1) else { return false }
        let last = entry.last(from: start)
        return !entries.contains { other in
            guard other.id != entry.id, let otherStart = other.start else { return false }
            return start <= other.last(from: otherStart) && otherStart <= last
        }
    }

    private func replaceTable_locked(_ changes: inout Changes) {
        changes.tables.append(BusTable(devices: changes.entries.map(\.device)))
        fill_locked(&changes)
    }

    /// Writes the ranges into the newest table and makes it the current one.
    private func fill_locked(_ changes: inout Changes) {
        guard let table = changes.tables.last else { return }
        var ranges: [BusTable.Range] = []
        for (index, entry) in changes.entries.enumerated() {
            guard let start = entry.start else { continue }
            ranges.append(.init(start: start, last: entry.last(from: start), device: index))
        }
        ranges.sort { $0.start < $1.start }
        let before = generation.load(ordering: .relaxed)
        generation.store(before &+ 1, ordering: .relaxed)
        atomicMemoryFence(ordering: .releasing)
        table.fill(ranges)
        // SAFETY: `changes.tables` keeps the table.
        unsafe current.store(Unmanaged.passUnretained(table), ordering: .releasing)
        generation.store(before &+ 2, ordering: .releasing)
    }
}
