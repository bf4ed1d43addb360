internal import Synchronization

/// The sorted ranges of a bus. Its devices never change; which of them are reachable, and where,
/// may change while others read, so a reader must check the bus's generation before it believes
/// what it found.
// SAFETY: `words` holds three atomics for each device from init to deinit; indices are checked
// against `capacity`.
@safe final class BusTable: Sendable {
    struct Range {
        let start: UInt64
        let last: UInt64
        let device: Int
    }

    private let devices: [any BusDevice]
    private let count = Atomic<Int>(0)
    // SAFETY: never changes; what it points at is atomic.
    nonisolated(unsafe) private let words: UnsafeMutablePointer<Atomic<UInt64>>

    init(devices: [any BusDevice]) {
        self.devices = devices
        let count = devices.count * 3
        unsafe words = .allocate(capacity: count)
        for index in 0..<count { unsafe (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe words.deinitialize(count: devices.count * 3)
        unsafe words.deallocate()
    }

    /// Sets the ranges, sorted and at most one for each device. One writer at a time.
    func fill(_ ranges: [Range]) {
        for (index, range) in ranges.prefix(devices.count).enumerated() {
            store(3 * index, range.start)
            store(3 * index + 1, range.last)
            store(3 * index + 2, UInt64(range.device))
        }
        count.store(min(ranges.count, devices.count), ordering: .relaxed)
    }

    /// The device that claims all `size` bytes at `address`, and the offset in its range.
    func find(_ address: UInt64, size: Int) -> (any BusDevice, UInt64)? {
        // The number of ranges that start at or below the address.
        var low = 0
        var high = min(count.load(ordering: .relaxed), devices.count)
        while low < high {
            let middle = (low + high) / 2
            if load(3 * middle) <= address { low = middle + 1 } else { high = middle }
        }
        guard low > 0 else { return nil }
        let start = load(3 * (low - 1))
        let last = load(3 * (low - 1) + 1)
        let device = Int(truncatingIfNeeded: load(3 * (low - 1) + 2))
        guard start <= address, address <= last, UInt64(size - 1) <= last - address,
            devices.indices.contains(device)
        else { return nil }
        return (devices[device], address - start)
    }

    private func load(_ index: Int) -> UInt64 {
        unsafe (words + index).pointee.load(ordering: .relaxed)
    }

    private func store(_ index: Int, _ value: UInt64) {
        unsafe (words + index).pointee.store(value, ordering: .relaxed)
    }
}
