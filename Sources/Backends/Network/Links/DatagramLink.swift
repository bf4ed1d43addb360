internal import CLinux
internal import Core
internal import Glibc

/// Frames over datagram sockets of the Unix domain, one each, as QEMU's `-netdev dgram` has it. What
/// the peer sends comes to a socket that is bound; it is sent to by another one that is connected,
/// which knows when the peer has room, and is connected anew when there is a new peer.
final class DatagramLink: UpLink {
    /// Where frames are sent.
    enum Target {
        /// The socket of that name in the thread's working folder.
        case name(String)
        /// Where those come from as well.
        case peer
    }

    private static let retryDelay: UInt64 = 100_000_000

    private let input: SharedFD
    private let target: Target
    private let maximumLength: UInt64
    private var output: SharedFD?
    private var nextTry: UInt64 = 0
    private var isDrained = false
    private let scratch = ScratchPad()

    let carriesHeader = false
    let hasLengths = false
    /// Nobody knows.
    let isConnected = true
    let deadline: UInt64? = nil
    var readFD: Int32 { input.rawValue }
    var writeFD: Int32 { output?.rawValue ?? -1 }

    /// - Parameter mtu: that of the network.
    init(_ input: SharedFD, to target: Target, mtu: UInt64) {
        self.input = input
        self.target = target
        maximumLength = mtu + FrameLimit.overhead
        if case .peer = target { output = input }
    }

    func turn(isReadable: Bool) { isDrained = !isReadable }

    func hangUp() {}

    // MARK: Sending

    func send(_ batch: TransmitBatch) -> SendResult {
        while batch.next < batch.count {
            guard let fd = output?.rawValue ?? connect() else { return .lost }
            let end = batch.nextEnd
            // SAFETY: these parts are memory that the batch's chains keep mapped.
            let sent = unsafe clinux_send_parts(
                fd, batch.parts + batch.next, Int32(end - batch.next))
            switch Int32(truncatingIfNeeded: -sent) {
            case EAGAIN: return .blocked
            case ECONNREFUSED, ENOTCONN, ECONNRESET, EPIPE:
                if case .peer = target { return .lost }
                // There may be a new one already.
                output = nil
            // Also where it was too long, or the host has no memory: frames get lost.
            default: batch.advanceFrame()
            }
        }
        return .done
    }

    private func connect() -> Int32? {
        guard case .name(let name) = target else { return nil }
        let now = Clock.monotonic()
        guard now >= nextTry else { return nil }
        nextTry = now + Self.retryDelay
        let new = clinux_unix_datagram_socket()
        guard new >= 0 else { return nil }
        let socket = SharedFD(owning: new)
        guard unsafe clinux_unix_connect(new, name) == 0 else { return nil }
        output = socket
        return new
    }

    // MARK: Receiving

    func nextFrame() -> NextFrame { isDrained ? .nothing : .room(maximumLength) }

    func receive(_ window: ReceiveWindow, headerSize: UInt64) -> ReceiveResult {
        let listed = window.list(from: headerSize, byteCount: maximumLength)
        // What does not fit ends up there.
        // SAFETY: there is room for one more part.
        unsafe (window.parts + listed.parts).initialize(to: scratch.part)
        let count = unsafe clinux_receive_parts(
            readFD, window.parts, Int32(listed.parts + 1))
        guard count >= 0 else {
            // A peer that has gone is reported once, and is no reason to try again at once.
            isDrained = true
            return .nothing
        }
        if count == 0 || UInt64(count) > listed.bytes { return .tooLong }
        return .frame(UInt64(count))
    }

    func skipFrame() {
        var part = unsafe scratch.part
        if unsafe clinux_receive_parts(readFD, &part, 1) < 0 { isDrained = true }
    }

    func forgetFrame() {}
    func keepRest(of batch: TransmitBatch) {}
}
