internal import CLinux
internal import Core
internal import Glibc

/// Frames, each after its length, that a peer has not taken yet: a ring of bytes of a fixed size, of
/// which nothing is in memory before it is needed.
// SAFETY: the mapping lives as long as this object; positions are taken modulo its size, and what is
// between them and its end, and from its beginning, is what is copied.
@safe final class FrameQueue {
    /// The longest frame must fit in it.
    static let size = 1 << 19

    private let mapping: MemoryMapping
    /// Bytes that have been taken out, and put in, ever.
    private var head = 0
    private var tail = 0

    init() throws(SystemError) { mapping = try MemoryMapping(anonymous: Self.size) }

    var isEmpty: Bool { head == tail }

    /// - Returns: whether there was room.
    func append(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let count = bytes.count
        guard let base = bytes.baseAddress, count <= Self.size - (tail - head) else {
            return count == 0
        }
        let start = tail & (Self.size - 1)
        let first = min(count, Self.size - start)
        unsafe memcpy(mapping.base + start, base, first)
        unsafe memcpy(mapping.base, base + first, count - first)
        tail += count
        return true
    }

    /// Sends what the socket takes.
    /// - Returns: 0, or what is wrong with the socket, as a negative number.
    func send(to fd: Int32) -> Int {
        while head < tail {
            let start = head & (Self.size - 1)
            let first = min(tail - head, Self.size - start)
            let rest = tail - head - first
            let sent = unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { parts in
                unsafe parts.initializeElement(
                    at: 0, to: iovec(iov_base: mapping.base + start, iov_len: first))
                unsafe parts.initializeElement(
                    at: 1, to: iovec(iov_base: mapping.base, iov_len: rest))
                return unsafe clinux_send_parts(
                    fd, parts.baseAddress.unsafelyUnwrapped, rest > 0 ? 2 : 1)
            }
            if sent == -Int(EAGAIN) { return 0 }
            guard sent >= 0 else { return sent }
            head += sent
        }
        return 0
    }

    func clear() {
        head = 0
        tail = 0
    }
}
