/// A queue of bytes with a fixed capacity.
struct ByteQueue: Sendable {
    let capacity: Int
    private var storage: [UInt8]
    private var head = 0
    private(set) var count = 0

    init(capacity: Int) {
        self.capacity = capacity
        storage = []
    }

    var free: Int { capacity - count }
    var isEmpty: Bool { count == 0 }

    /// Adds a byte at the end.
    /// - Returns: `false` if the queue is full.
    mutating func append(_ byte: UInt8) -> Bool {
        guard count < capacity else { return false }
        // Memory only for queues that are used.
        if storage.isEmpty { storage = [UInt8](repeating: 0, count: capacity) }
        storage[(head + count) % capacity] = byte
        count += 1
        return true
    }

    /// The first byte, which stays.
    var first: UInt8? { count > 0 ? storage[head] : nil }

    /// Takes the first byte.
    mutating func removeFirst() -> UInt8? {
        guard count > 0 else { return nil }
        let byte = storage[head]
        head = (head + 1) % capacity
        count -= 1
        return byte
    }

    /// Takes up to `maximum` bytes.
    mutating func removeFirst(_ maximum: Int) -> [UInt8] {
        let length = max(0, min(maximum, count))
        let bytes = (0..<length).map { storage[(head + $0) % capacity] }
        count -= length
        head = count == 0 ? 0 : (head + length) % capacity
        return bytes
    }

    mutating func removeAll() {
        head = 0
        count = 0
    }
}
