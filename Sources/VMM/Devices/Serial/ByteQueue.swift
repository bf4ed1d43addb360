/// A queue of bytes with a fixed capacity. Memory comes with use.
struct ByteQueue: Sendable {
    private static let firstSize = 256

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
        if count == storage.count { grow() }
        storage[(head + count) % storage.count] = byte
        count += 1
        return true
    }

    private mutating func grow() {
        var larger = [UInt8](
            repeating: 0, count: min(capacity, max(Self.firstSize, 2 * storage.count)))
        for index in 0..<count { larger[index] = storage[(head + index) % storage.count] }
        storage = larger
        head = 0
    }

    /// The first byte, which stays.
    var first: UInt8? { count > 0 ? storage[head] : nil }

    /// Takes the first byte.
    mutating func removeFirst() -> UInt8? {
        guard count > 0 else { return nil }
        let byte = storage[head]
        head = (head + 1) % storage.count
        count -= 1
        return byte
    }

    /// Takes up to `maximum` bytes.
    mutating func removeFirst(_ maximum: Int) -> [UInt8] {
        let length = max(0, min(maximum, count))
        let bytes = (0..<length).map { storage[(head + $0) % storage.count] }
        count -= length
        head = count == 0 ? 0 : (head + length) % storage.count
        return bytes
    }

    mutating func removeAll() {
        head = 0
        count = 0
    }
}
