internal import Core
internal import Glibc

/// A Unix socket that takes connections: all of them get the output, and all of them may write.
///
/// A terminal's guest waits for nobody: a reader that is too slow misses output. A channel's guest
/// waits for the slowest reader, because there no byte may be lost; but one that reads nothing at all
/// is let go where others wait for it as well. Without readers, what the guest writes goes nowhere.
final class SocketEnd: HostEnd {
    private static let maximumClients = 16
    private static let portion = 16 << 10
    /// What a channel's readers may be behind.
    private static let channelCapacity = 64 << 10
    private static let patienceMilliseconds: UInt32 = 2000

    /// One connection.
    private final class Client {
        let fd: SharedFD
        /// How much of all output it has been given.
        var position: UInt64
        /// It has said all that it will say, but may go on to read.
        var isSilent = false
        /// It has closed its end; what it has said before is still to be read.
        var hasLeft = false
        var inputWatch: EventRegistration?
        var outputWatch: EventRegistration?

        init(_ fd: SharedFD, position: UInt64) {
            self.fd = fd
            self.position = position
        }

        /// Something waits to be read.
        var hasInput: Bool { ((try? fd.waitingBytes()) ?? 0) > 0 }
    }

    private let listener: UnixListener
    private let loop: EventLoop
    /// Readers that come late are shown what there was.
    private let replaySize: Int
    private let isLossless: Bool
    private var history: OutputHistory
    private var clients: [Client] = []
    private var acceptWatch: EventRegistration?
    private var isHeldUp = false
    private var wakeUp: EventRegistration?
    private var patience: EventRegistration?

    let size: TerminalSize? = nil
    weak var events: (any HostEvents)?

    /// - Parameter isLossless: a channel, see above.
    init(_ listener: UnixListener, replaySize: Int, isLossless: Bool, on loop: EventLoop) {
        self.listener = listener
        self.loop = loop
        self.replaySize = replaySize
        self.isLossless = isLossless
        history = OutputHistory(
            capacity: max(replaySize, isLossless ? Self.channelCapacity : Self.portion))
        acceptWatch = loop.watch(listener.fd.rawValue, for: .readable) { [unowned self] _ in
            accept()
        }
    }

    var isConnected: Bool { !clients.isEmpty }

    private var readers: [Client] { clients.filter { !$0.hasLeft } }

    var wantsInput = false {
        didSet {
            guard wantsInput != oldValue else { return }
            for client in clients { watchInput(client) }
        }
    }

    func write(_ bytes: ArraySlice<UInt8>) -> Int {
        var room = bytes.count
        if isLossless, let slowest = readers.map(\.position).min() {
            room = min(room, history.capacity - Int(history.end - slowest))
        }
        history.append(bytes.prefix(room))
        for client in readers where client.outputWatch == nil { send(client) }
        isHeldUp = room < bytes.count
        // Sending may have made room already.
        if isHeldUp { wakeWriter() }
        if isHeldUp { watchSleepers() }
        return room
    }

    /// Lets readers go that hold up the others.
    private func watchSleepers() {
        guard patience == nil, readers.count > 1 else { return }
        let before = readers.map { (client: $0, position: $0.position) }
        patience = loop.after(milliseconds: Self.patienceMilliseconds) { [unowned self] in
            patience = nil
            for (client, position) in before where isHeldUp && readers.count > 1 {
                guard client.position == position, client.position < history.end else { continue }
                consoleLog.guest("a reader that reads nothing is let go")
                drop(client)
            }
            if isHeldUp { watchSleepers() }
        }
    }

    func reset() {
        let had = isConnected
        clients = []
        history = OutputHistory(capacity: history.capacity)
        if had { events?.connectionChanged() }
    }

    func savedOutput() -> [UInt8] {
        history.piece(from: history.start, limit: history.capacity)
    }

    func restoreOutput(_ bytes: [UInt8]) {
        history.append(bytes[...])
        // What a reader has not read by now it has missed.
        for client in readers { client.position = max(client.position, history.start) }
        for client in readers where client.outputWatch == nil { send(client) }
    }

    private func wakeWriter() {
        guard isHeldUp,
            readers.allSatisfy({ history.end - $0.position < UInt64(history.capacity) })
        else { return }
        isHeldUp = false
        patience = nil
        // Not from inside the writer's own call.
        wakeUp = loop.after(milliseconds: 0) { [unowned self] in events?.canWrite() }
    }

    // MARK: Connections

    private func accept() {
        do {
            guard let socket = try listener.accept() else { return }
            guard clients.count < Self.maximumClients else {
                return consoleLog.guest("a reader is turned away: there are 16 already")
            }
            let known = UInt64(replaySize)
            let from = max(history.start, history.end - min(history.end, known))
            let client = Client(socket.fd, position: from)
            clients.append(client)
            watchInput(client)
            if clients.count == 1 { events?.connectionChanged() }
            send(client)
        } catch {
            consoleLog.guest("a connection could not be accepted: \(error)")
        }
    }

    private func drop(_ client: Client) {
        client.inputWatch = nil
        client.outputWatch = nil
        guard let index = clients.firstIndex(where: { $0 === client }) else { return }
        clients.remove(at: index)
        if clients.isEmpty { events?.connectionChanged() }
        wakeWriter()
    }

    private func send(_ client: Client) {
        while client.position < history.end {
            client.position = max(client.position, history.start)
            let piece = history.piece(from: client.position, limit: Self.portion)
            // SAFETY: the buffer is used only during the call.
            let count = unsafe piece.withUnsafeBytes { buffer in
                unsafe Glibc.write(client.fd.rawValue, buffer.baseAddress, buffer.count)
            }
            if count >= 0 {
                client.position += UInt64(count)
            } else if errno == EAGAIN {
                return waitForRoom(client)
            } else if errno != EINTR {
                return drop(client)
            }
        }
        wakeWriter()
    }

    private func waitForRoom(_ client: Client) {
        client.outputWatch = loop.watch(client.fd.rawValue, for: .writable) {
            [unowned self, unowned client] _ in
            client.outputWatch = nil
            send(client)
        }
    }

    private func watchInput(_ client: Client) {
        client.inputWatch = nil
        if client.hasLeft && !wantsInput { return }
        // One that has gone is noticed even if nobody wants its input.
        client.inputWatch = loop.watch(
            client.fd.rawValue, for: wantsInput && !client.isSilent ? .readable : []
        ) { [unowned self, unowned client] happened in
            happened.contains(.readable) ? read(client) : leave(client)
        }
    }

    /// A client has closed its end. What it has said before waits until it is wanted.
    private func leave(_ client: Client) {
        guard !client.isSilent, client.hasInput else { return drop(client) }
        client.hasLeft = true
        client.outputWatch = nil
        watchInput(client)
        wakeWriter()
    }

    private func read(_ client: Client) {
        var bytes = [UInt8](repeating: 0, count: Self.portion)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe Glibc.read(client.fd.rawValue, &bytes, bytes.count)
        if count > 0 {
            bytes.removeLast(bytes.count - count)
            events?.received(bytes)
        } else if count == 0, client.hasLeft {
            drop(client)
        } else if count == 0 {
            client.isSilent = true
            watchInput(client)
        } else if errno != EINTR && errno != EAGAIN {
            drop(client)
        }
    }
}
