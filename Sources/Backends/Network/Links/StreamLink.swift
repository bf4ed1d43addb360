internal import CLinux
internal import Core
internal import Glibc

/// Frames over a stream socket of the Unix domain, each after its length in four bytes, big-endian,
/// as QEMU's `-netdev stream` and `passt` have it. When the peer has gone, another one is waited for
/// or sought.
// SAFETY: `prefix` belongs to this object and has four bytes, of which `prefixCount` have come.
@safe final class StreamLink: UpLink {
    private var source: StreamSource
    private var socket: SharedFD?
    private var fd: Int32 = -1

    private let prefix: UnsafeMutablePointer<UInt8>
    private var prefixCount = 0
    /// The frame that is coming: its length, 0 if none is, and how much of it has come.
    private var frameLength: UInt64 = 0
    private var received: UInt64 = 0
    private var isSkipping = false
    /// The last read has taken all there was.
    private var isDrained = false
    private let scratch = ScratchPad()
    private var tail = StreamTail()

    let carriesHeader = false
    let hasLengths = true
    var isConnected: Bool { fd >= 0 }
    var writeFD: Int32 { fd }
    var readFD: Int32 { fd < 0 ? source.fd : fd }
    var deadline: UInt64? { fd < 0 ? source.deadline : nil }

    init(_ source: StreamSource.Kind) {
        self.source = StreamSource(source)
        unsafe prefix = .allocate(capacity: 4)
        unsafe prefix.initialize(repeating: 0, count: 4)
    }

    deinit { unsafe prefix.deallocate() }

    // MARK: Connection

    func turn(isReadable: Bool) {
        isDrained = !isReadable
        guard fd < 0, let new = source.next(isReadable: isReadable) else { return }
        socket = new
        fd = new.rawValue
        networkLog(.info, "the up-link is connected")
    }

    func hangUp() {
        guard fd >= 0 else { return }
        networkLog(.info, "the peer of the up-link has gone")
        socket = nil
        fd = -1
        prefixCount = 0
        frameLength = 0
        isSkipping = false
        tail.clear()
        source.disconnected()
    }

    // MARK: Sending

    func send(_ batch: TransmitBatch) -> SendResult {
        guard fd >= 0 else { return .lost }
        switch tail.send(to: fd) {
        case .done: break
        case .blocked: return .blocked
        case .lost:
            hangUp()
            return .lost
        }
        while batch.next < batch.count {
            let count = min(batch.count - batch.next, TransmitBatch.callLimit)
            // SAFETY: `count` parts follow, of memory that the batch's chains keep mapped.
            let sent = unsafe clinux_send_parts(fd, batch.parts + batch.next, Int32(count))
            if sent == -Int(EAGAIN) { return .blocked }
            guard sent >= 0 else {
                hangUp()
                return .lost
            }
            batch.advance(by: sent)
        }
        return .done
    }

    // MARK: Receiving

    func nextFrame() -> NextFrame {
        if isSkipping { return skipMore() }
        if frameLength > 0 { return .room(frameLength) }
        while prefixCount < 4 {
            guard let count = read(prefix: 4 - prefixCount) else { return .nothing }
            prefixCount += count
        }
        prefixCount = 0
        // SAFETY: all four bytes have come.
        let length = UInt64(
            UInt32(bigEndian: unsafe UnsafeRawPointer(prefix).loadUnaligned(as: UInt32.self)))
        guard length <= FrameLimit.maximum else {
            networkLog.guest("the peer of the up-link sends a frame of \(length) bytes")
            hangUp()
            return .nothing
        }
        guard length > 0 else { return .dropped }
        frameLength = length
        received = 0
        return .room(length)
    }

    private func read(prefix count: Int) -> Int? {
        // SAFETY: `prefixCount + count` is at most four.
        var part = unsafe iovec(iov_base: prefix + prefixCount, iov_len: count)
        return unsafe read(&part, 1, wanted: count)
    }

    /// - Returns: how many bytes have come; `nil`: none.
    private func read(_ parts: UnsafePointer<iovec>, _ count: Int, wanted: Int) -> Int? {
        guard fd >= 0, !isDrained else { return nil }
        let result = unsafe clinux_receive_parts(fd, parts, Int32(count))
        isDrained = result < wanted
        if result > 0 { return result }
        if result != -Int(EAGAIN) { hangUp() }
        return nil
    }

    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult {
        let left = frameLength - received
        let listed = window.list(from: headerSize + received, byteCount: left)
        // The length of the frame after this one comes along.
        // SAFETY: there is room for one more part, and for four bytes.
        unsafe (window.parts + listed.parts).initialize(to: iovec(iov_base: prefix, iov_len: 4))
        guard let count = unsafe read(window.parts, listed.parts + 1, wanted: Int(left) + 4) else {
            return .nothing
        }
        guard UInt64(count) >= left else {
            received += UInt64(count)
            return .nothing
        }
        prefixCount = count - Int(left)
        defer { frameLength = 0 }
        return .frame(frameLength)
    }

    func skipFrame() {
        isSkipping = true
    }

    private func skipMore() -> NextFrame {
        while received < frameLength {
            let wanted = min(Int(frameLength - received), ScratchPad.size)
            var part = unsafe scratch.part
            unsafe part.iov_len = wanted
            guard let count = unsafe read(&part, 1, wanted: wanted) else { return .nothing }
            received += UInt64(count)
        }
        isSkipping = false
        frameLength = 0
        return .dropped
    }

    func forgetFrame() {
        if frameLength > 0 { isSkipping = true }
    }

    func keepRest(of batch: TransmitBatch) {
        if fd >= 0 { tail.keep(from: batch) }
    }
}
