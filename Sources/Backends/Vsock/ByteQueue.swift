/// Bytes that wait for a socket to take them, first in, first out.
struct ByteQueue {
    private var bytes: [UInt8] = []
    /// Those before it have been taken.
    private var head = 0

    var count: Int { bytes.count - head }
    var isEmpty: Bool { count == 0 }

    mutating func append(_ more: ArraySlice<UInt8>) { bytes += more }

    /// Shows what waits to `body`, which says how much of it it took.
    mutating func take(_ body: (UnsafeRawBufferPointer) -> Int) {
        // SAFETY: the buffer is used only during the call; `head` lies inside it.
        let taken = unsafe bytes.withUnsafeBytes { buffer in
            unsafe body(UnsafeRawBufferPointer(rebasing: buffer[head...]))
        }
        head += min(max(taken, 0), count)
        if isEmpty {
            removeAll()
        } else if head > bytes.count / 2 {
            bytes.removeFirst(head)
            head = 0
        }
    }

    /// Memory is given back as well.
    mutating func removeAll() {
        bytes = []
        head = 0
    }
}
