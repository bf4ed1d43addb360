internal import CLinux
internal import Core
internal import Glibc

/// A port of a switch: a peer on a stream, or a tap interface. Nobody waits for it. What its peer
/// does not take in time is lost, whole frames at a time.
///
/// All frames in memory are as on a stream: four bytes of length, big-endian, and the frame.
// SAFETY: `partial` is mapped as long as this object lives and holds `partialCount` bytes, at most
// `partialSize`. Pointers that are passed in are valid for as many bytes as is said.
@safe final class SwitchPort {
    static let prefixSize = 4
    /// What is left of a frame is shorter than one.
    private static let partialSize = 1 << 17
    /// Frames that go to all ports, in a second: beyond that they are dropped.
    private static let floodsPerSecond: UInt64 = 10_000

    enum Medium {
        case stream
        case tap
        /// A driver's queues.
        case memory(MemoryPort)
    }

    let isTap: Bool
    let memory: MemoryPort?
    let number: Int
    private var socket: SharedFD?
    private(set) var fd: Int32 = -1
    private let queue: FrameQueue
    private let partial: MemoryMapping
    private var partialCount = 0
    private var floods = RateLimit(perSecond: SwitchPort.floodsPerSecond, burst: 100)
    private(set) var receivedCount: UInt64 = 0
    private(set) var sentCount: UInt64 = 0
    private(set) var droppedCount: UInt64 = 0

    /// - Parameter socket: what it is connected to; it does not wait.
    init(_ medium: Medium, number: Int, _ socket: SharedFD? = nil) throws(SystemError) {
        if case .tap = medium { isTap = true } else { isTap = false }
        if case .memory(let port) = medium { memory = port } else { memory = nil }
        self.number = number
        queue = try FrameQueue()
        partial = try MemoryMapping(anonymous: Self.partialSize)
        if let socket { connect(socket) }
    }

    var isConnected: Bool { fd >= 0 || memory?.receiver != nil }
    var wantsToWrite: Bool { !queue.isEmpty }

    func connect(_ new: SharedFD) {
        socket = new
        fd = new.rawValue
    }

    /// The peer has gone, or is not talked to any more.
    func disconnect() {
        guard isConnected else { return }
        networkLog(
            .info,
            "port \(number) is free: \(receivedCount) frames came, \(sentCount) went, "
                + "\(droppedCount) were dropped")
        socket = nil
        fd = -1
        queue.clear()
        partialCount = 0
        (receivedCount, sentCount, droppedCount) = (0, 0, 0)
    }

    /// Whether a frame of this port may go to all others now.
    func mayFlood(at now: UInt64) -> Bool {
        guard floods.allows(at: now) else {
            droppedCount += 1
            return false
        }
        floods.use(1, at: now)
        return true
    }

    func countReceived() { receivedCount += 1 }

    // MARK: Receiving

    /// Puts what has come at the beginning of `buffer`, after what was left over last time.
    /// - Returns: how many bytes there are now; `nil` if the peer has gone.
    func receive(into buffer: UnsafeMutableRawBufferPointer) -> Int? {
        guard let base = buffer.baseAddress else { return 0 }
        if isTap { return unsafe receiveFromTap(base, size: buffer.count) }
        unsafe memcpy(base, partial.base, partialCount)
        var part = unsafe iovec(
            iov_base: base + partialCount, iov_len: buffer.count - partialCount)
        let count = unsafe clinux_receive_parts(fd, &part, 1)
        if count == -Int(EAGAIN) { return 0 }
        return count > 0 ? partialCount + count : nil
    }

    /// Keeps the beginning of a frame for the next time.
    func keep(_ rest: UnsafeRawBufferPointer) {
        partialCount = min(rest.count, Self.partialSize)
        guard let base = rest.baseAddress else { return }
        unsafe memcpy(partial.base, base, partialCount)
    }

    private func receiveFromTap(_ base: UnsafeMutableRawPointer, size: Int) -> Int? {
        let longest = Int(FrameLimit.maximum)
        var used = 0
        while used + Self.prefixSize + longest <= size {
            let count = unsafe withHeader { header in
                unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { parts in
                    unsafe parts.initializeElement(at: 0, to: header)
                    unsafe parts.initializeElement(
                        at: 1,
                        to: iovec(iov_base: base + used + Self.prefixSize, iov_len: longest))
                    return unsafe clinux_read_parts(
                        fd, parts.baseAddress.unsafelyUnwrapped, 2)
                }
            }
            // One that is down has nothing; one that has been removed says so once.
            if count == -Int(EBADFD), clinux_tap_kind(fd) == 0 { return nil }
            let length = count - Self.tapHeaderSize
            guard length > 0 else { break }
            unsafe (base + used).storeBytes(
                of: UInt32(truncatingIfNeeded: length).bigEndian, as: UInt32.self)
            used += Self.prefixSize + length
        }
        return used
    }

    // MARK: Sending

    /// Sends whole frames, or keeps them until the peer takes them, or drops them.
    /// - Returns: whether the peer is still there.
    func send(_ frames: UnsafeRawBufferPointer) -> Bool {
        if isTap { return unsafe sendToTap(frames) }
        if let memory {
            unsafe deliver(frames, to: memory)
            return true
        }
        guard let base = frames.baseAddress else { return true }
        guard queue.isEmpty else {
            unsafe enqueue(frames, from: 0)
            return true
        }
        var part = unsafe iovec(
            iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: frames.count)
        let sent = unsafe clinux_send_parts(fd, &part, 1)
        guard sent >= 0 || sent == -Int(EAGAIN) else { return false }
        unsafe enqueue(frames, from: max(sent, 0))
        return true
    }

    private func deliver(_ frames: UnsafeRawBufferPointer, to memory: MemoryPort) {
        var start = 0
        while start < frames.count {
            let end = unsafe Self.end(of: start, in: frames)
            let frame = unsafe UnsafeRawBufferPointer(
                rebasing: frames[start + Self.prefixSize..<end])
            if unsafe memory.receiver?.deliver(frame) == .done {
                sentCount += 1
            } else {
                droppedCount += 1
            }
            start = end
        }
        memory.publish()
    }

    /// - Parameter sent: so many bytes have gone; the rest of the frame that they end in must go.
    private func enqueue(_ frames: UnsafeRawBufferPointer, from sent: Int) {
        var start = 0
        while start < frames.count {
            let end = unsafe Self.end(of: start, in: frames)
            if end <= sent {
                sentCount += 1
            } else if unsafe queue.append(
                UnsafeRawBufferPointer(rebasing: frames[max(start, sent)..<end]))
            {
                sentCount += 1
            } else {
                droppedCount += 1
            }
            start = end
        }
    }

    /// The end of the frame at `start`; all of it is there.
    static func end(of start: Int, in frames: UnsafeRawBufferPointer) -> Int {
        let length = unsafe UInt32(
            bigEndian: frames.loadUnaligned(fromByteOffset: start, as: UInt32.self))
        return start + prefixSize + Int(length)
    }

    /// Sends what was kept.
    /// - Returns: whether the peer is still there.
    func flush() -> Bool { queue.send(to: fd) == 0 }

    private func sendToTap(_ frames: UnsafeRawBufferPointer) -> Bool {
        var start = 0
        while start < frames.count {
            let end = unsafe Self.end(of: start, in: frames)
            let frame = unsafe UnsafeRawBufferPointer(
                rebasing: frames[start + Self.prefixSize..<end])
            // An interface that is down takes nothing.
            if unsafe writeToTap(frame) < 0 { droppedCount += 1 } else { sentCount += 1 }
            start = end
        }
        return true
    }

    private func writeToTap(_ frame: UnsafeRawBufferPointer) -> Int {
        unsafe withHeader { header in
            unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { parts in
                unsafe parts.initializeElement(at: 0, to: header)
                unsafe parts.initializeElement(
                    at: 1,
                    to: iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: frame.baseAddress),
                        iov_len: frame.count))
                return unsafe clinux_write_parts(fd, parts.baseAddress.unsafelyUnwrapped, 2)
            }
        }
    }

    /// What a tap interface has before each frame: nothing is left for others to do.
    static let tapHeaderSize = 12

    private func withHeader(_ body: (iovec) -> Int) -> Int {
        var header: (UInt64, UInt32) = (0, 0)
        return unsafe withUnsafeMutableBytes(of: &header) { bytes in
            unsafe body(iovec(iov_base: bytes.baseAddress, iov_len: Self.tapHeaderSize))
        }
    }
}
