internal import CLinux
internal import Core
internal import Glibc

/// Frames over a stream socket that outlives this process: who holds it gives it to the next one, if
/// this one is killed. So at every moment whole frames have been read from it, and written to it.
///
/// What has come is looked at and stays in the socket until its frames are in the driver's buffers. If
/// the process ends between the two, they come twice, which networks allow for. What is sent goes in
/// pieces that the kernel takes as a whole or not at all.
// SAFETY: `memory` is mapped as long as this object lives and holds `filled` bytes, of which `used`
// belong to frames that are done with.
@safe final class HeldStreamLink: UpLink {
    /// As much as a Unix socket takes in one piece, if it has room for it.
    private static let pieceSize = 32 << 10
    private static let memorySize = 128 << 10
    private static let prefixSize = 4
    private static let shortestRetry: UInt64 = 100_000
    private static let longestRetry: UInt64 = 100_000_000

    private var socket: SharedFD?
    private var fd: Int32
    private let memory: MemoryMapping
    private var filled = 0
    private var used = 0
    private var frameLength = 0
    private var isDrained = false
    /// Half a frame lies in the socket, which is readable all the time: when to look again.
    private(set) var deadline: UInt64?
    private var retryDelay = HeldStreamLink.shortestRetry
    private var tail = StreamTail()

    let carriesHeader = false
    let hasLengths = true
    var isConnected: Bool { fd >= 0 }
    var writeFD: Int32 { fd }
    var readFD: Int32 { deadline == nil ? fd : -1 }

    init(_ socket: SharedFD) throws(SystemError) {
        _ = clinux_set_nonblocking(socket.rawValue)
        self.socket = socket
        fd = socket.rawValue
        memory = try MemoryMapping(anonymous: Self.memorySize)
    }

    func turn(isReadable: Bool) {
        isDrained = !isReadable
        guard let deadline, Clock.monotonic() >= deadline else { return }
        self.deadline = nil
        isDrained = false
    }

    func hangUp() {
        guard isConnected else { return }
        networkLog(.error, "the peer of the up-link has gone; its guest is without a link")
        socket = nil
        fd = -1
        deadline = nil
        filled = 0
        used = 0
        tail.clear()
    }

    // MARK: Sending

    func send(_ batch: TransmitBatch) -> SendResult {
        guard isConnected else { return .lost }
        var result = tail.send(to: fd)
        while result == .done, batch.next < batch.count { result = sendPiece(batch) }
        if result == .lost { hangUp() }
        return result
    }

    private func sendPiece(_ batch: TransmitBatch) -> SendResult {
        let end = batch.end(within: Self.pieceSize)
        var byteCount = 0
        for index in batch.next..<end { byteCount += unsafe batch.parts[index].iov_len }
        // A larger one is sent in several, for which there is room if the socket says so.
        if byteCount > Self.pieceSize, clinux_poll_two(fd, Int16(POLLOUT), -1, 0, 0) == 0 {
            return .blocked
        }
        // SAFETY: these parts are memory that the batch's chains keep mapped.
        let sent = unsafe clinux_send_parts(fd, batch.parts + batch.next, Int32(end - batch.next))
        if sent == -Int(EAGAIN) { return .blocked }
        guard sent >= 0 else { return .lost }
        batch.advance(by: sent)
        return .done
    }

    // MARK: Receiving

    func nextFrame() -> NextFrame {
        if !hasFrame {
            takeOut()
            guard isConnected, !isDrained, look() else { return .nothing }
        }
        guard isConnected else { return .nothing }
        if frameLength > 0 { return .room(UInt64(frameLength)) }
        used += Self.prefixSize
        return .dropped
    }

    /// Whether all of a frame is there, of `frameLength`.
    private var hasFrame: Bool {
        guard filled - used >= Self.prefixSize else { return false }
        let length = unsafe UInt32(
            bigEndian: memory.base.loadUnaligned(fromByteOffset: used, as: UInt32.self))
        guard UInt64(length) <= FrameLimit.maximum else {
            networkLog.guest("the peer of the up-link sends a frame of \(length) bytes")
            hangUp()
            return false
        }
        frameLength = Int(length)
        return filled - used - Self.prefixSize >= frameLength
    }

    /// Looks at what has come.
    /// - Returns: whether there is a frame.
    private func look() -> Bool {
        let count = unsafe clinux_peek(fd, memory.base, Self.memorySize)
        isDrained = count < Self.memorySize
        guard count > 0 else {
            if count != -Int(EAGAIN) { hangUp() }
            return false
        }
        filled = count
        if hasFrame {
            retryDelay = Self.shortestRetry
            return true
        }
        filled = 0
        guard isConnected else { return false }
        deadline = Clock.monotonic() + retryDelay
        retryDelay = min(retryDelay * 2, Self.longestRetry)
        return false
    }

    /// Takes the frames that are done with out of the socket.
    private func takeOut() {
        var left = used
        used = 0
        filled = 0
        while left > 0, isConnected {
            var part = unsafe iovec(iov_base: memory.base, iov_len: left)
            let count = unsafe clinux_receive_parts(fd, &part, 1)
            guard count > 0 else { return hangUp() }
            left -= count
        }
    }

    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult {
        let listed = window.list(from: headerSize, byteCount: UInt64(frameLength))
        var place = unsafe memory.base + used + Self.prefixSize
        for index in 0..<listed.parts {
            // SAFETY: the parts make up no more than the frame, all of which is there.
            let part = unsafe window.parts[index]
            unsafe memcpy(part.iov_base, place, part.iov_len)
            unsafe place += part.iov_len
        }
        used += Self.prefixSize + frameLength
        return .frame(UInt64(frameLength))
    }

    func skipFrame() { used += Self.prefixSize + frameLength }

    func forgetFrame() { takeOut() }

    func keepRest(of batch: TransmitBatch) {
        if isConnected { tail.keep(from: batch) }
    }

    var unsent: [UInt8] {
        get { tail.bytes }
        set { tail.bytes = newValue }
    }
}
