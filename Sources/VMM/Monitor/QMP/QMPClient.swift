internal import Core
internal import Glibc

/// A client's socket. What it sends is read only as fast as it takes the answers; one that takes no
/// events is cut off. Nothing here waits.
final class QMPClient {
    private static let portion = 4 << 10
    /// Requests wait while there is this much that the client has not taken.
    private static let outputLimit = 64 << 10
    /// A client that lets so much pile up is cut off.
    private static let patienceLimit = 1 << 20

    private let socket: UnixSocket
    private let loop: EventLoop
    private let session: QMPSession
    private let drop: (QMPClient) -> Void
    private var input: ArraySlice<UInt8> = []
    private var output: ArraySlice<UInt8> = []
    /// It has said all that it will say, and may go on to read.
    private var isSilent = false
    private var isDropped = false
    private var isReading = false
    private var inputWatch: EventRegistration?
    private var outputWatch: EventRegistration?

    /// - Parameter drop: called once, when the client is done with, or is no good.
    init(
        _ socket: UnixSocket, _ table: MonitorTable, on loop: EventLoop,
        drop: @escaping (QMPClient) -> Void
    ) {
        self.socket = socket
        self.loop = loop
        self.drop = drop
        session = QMPSession(table)
        session.send = { [unowned self] in write($0) }
        session.onIdle = { [unowned self] in work() }
        session.greet()
        work()
    }

    func tell(_ event: JSONValue) { session.tell(event) }

    // MARK: Input

    /// Does what can be done now, and waits for what is missing.
    private func work() {
        while !isDropped, !session.isBusy, output.count < Self.outputLimit,
            let message = session.nextMessage(&input)
        { session.take(message) }
        if isDropped { return }
        if isSilent, input.isEmpty, !session.isBusy, output.isEmpty { return end() }
        watchInput(!isSilent && !session.isBusy && output.count < Self.outputLimit)
    }

    /// - Parameter wantsInput: one that has gone is noticed even without.
    private func watchInput(_ wantsInput: Bool) {
        if inputWatch != nil, wantsInput == isReading { return }
        isReading = wantsInput
        inputWatch = loop.watch(socket.fd.rawValue, for: wantsInput ? .readable : []) {
            [unowned self] happened in
            happened.contains(.readable) ? read() : end()
        }
    }

    private func read() {
        var bytes = [UInt8](repeating: 0, count: Self.portion)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe Glibc.read(socket.fd.rawValue, &bytes, bytes.count)
        if count > 0 {
            input = bytes[..<count]
        } else if count == 0 {
            isSilent = true
        } else {
            if errno == EINTR || errno == EAGAIN { return }
            return end()
        }
        work()
    }

    // MARK: Output

    private func write(_ value: JSONValue) {
        guard !isDropped else { return }
        output += value.text + [UInt8(ascii: "\r"), UInt8(ascii: "\n")]
        flush()
        guard output.count > Self.patienceLimit else { return }
        monitorLog.guest("a client that does not read is cut off")
        end()
    }

    private func flush() {
        while !output.isEmpty {
            // SAFETY: the buffer is used only during the call.
            let count = unsafe output.withUnsafeBytes { buffer in
                unsafe Glibc.write(socket.fd.rawValue, buffer.baseAddress, buffer.count)
            }
            if count >= 0 {
                output.removeFirst(count)
            } else if errno == EAGAIN {
                return waitForRoom()
            } else if errno != EINTR {
                return end()
            }
        }
        output = []
    }

    private func waitForRoom() {
        guard outputWatch == nil else { return }
        outputWatch = loop.watch(socket.fd.rawValue, for: .writable) { [unowned self] _ in
            outputWatch = nil
            flush()
            work()
        }
    }

    /// Forgets the client, not from inside of what calls us.
    private func end() {
        guard !isDropped else { return }
        isDropped = true
        inputWatch = nil
        outputWatch = loop.after(milliseconds: 0) { [unowned self] in drop(self) }
    }
}
