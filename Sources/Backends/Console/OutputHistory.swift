/// The last output of a port, by its place in all of it. It takes memory only as output comes.
struct OutputHistory {
    let capacity: Int
    /// A ring once it is full: the byte at a place is at that place modulo the capacity.
    private var bytes: [UInt8] = []
    /// Bytes of all the output so far.
    private(set) var end: UInt64 = 0

    /// - Parameter capacity: at least one.
    init(capacity: Int) { self.capacity = capacity }

    /// Where what is still known begins.
    var start: UInt64 { end - UInt64(bytes.count) }

    mutating func append(_ new: ArraySlice<UInt8>) {
        // What does not fit is over at once; its places count.
        end += UInt64(max(new.count - capacity, 0))
        for byte in new.suffix(capacity) {
            if bytes.count < capacity, end == UInt64(bytes.count) {
                bytes.append(byte)
            } else {
                while bytes.count < capacity { bytes.append(0) }
                bytes[Int(end % UInt64(capacity))] = byte
            }
            end += 1
        }
    }

    /// At most `limit` bytes from `position`, which lies between `start` and `end`.
    func piece(from position: UInt64, limit: Int) -> [UInt8] {
        let count = min(UInt64(limit), end - position)
        return (0..<count).map { bytes[Int((position + $0) % UInt64(capacity))] }
    }
}
