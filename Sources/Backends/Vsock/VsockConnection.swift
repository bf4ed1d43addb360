internal import Core
internal import Glibc

/// A stream between a program of the guest and a Unix socket of the host.
///
/// Bytes go straight between the guest's buffers and the socket; only what the socket does not take
/// at once is kept, at most `bufferSize` bytes, which is what the guest is told that there is room
/// for (VIRTIO 1.3, section 5.10.6.3).
final class VsockConnection {
    static let bufferSize: UInt32 = 128 << 10
    /// The most bytes in one packet.
    private static let packetLimit: UInt64 = 64 << 10

    /// What the guest is still to be told, besides bytes and what the host does no more.
    struct Debts: OptionSet {
        let rawValue: UInt8

        static let request = Debts(rawValue: 1)
        static let response = Debts(rawValue: 2)
        static let credit = Debts(rawValue: 4)
        static let creditRequest = Debts(rawValue: 8)
    }

    let guest: VsockAddress
    let host: VsockAddress
    let fd: SharedFD
    private let loop: EventLoop
    private let onEvent: (VsockConnection) -> Void
    private var watch: EventRegistration?
    private var watched: IOEvents?

    /// It waits for its turn to tell the guest something.
    var isQueued = false
    /// It is of no more use: the guest broke the protocol, or the socket failed.
    private(set) var isBroken = false
    var isEstablished: Bool
    var debts: Debts

    // Towards the guest.
    private var sent: UInt32 = 0
    var guestBufferSize: UInt32 = 0
    var guestForwarded: UInt32 = 0
    /// Bytes that the socket is known to hold.
    var available = 0
    /// The program on the host says no more.
    private var hasEnded = false
    private var announced: VsockShutdown = []

    // From the guest.
    var received: UInt32 = 0
    var forwarded: UInt32 = 0
    /// What the guest knows of `forwarded`.
    var told: UInt32 = 0
    var backlog = ByteQueue()
    /// The program on the host takes no more.
    var isDeaf = false
    /// What the guest does no more.
    var guestShutdown: VsockShutdown = []

    /// - Parameters:
    ///   - isRequested: the guest has asked for it; otherwise it is still to agree.
    ///   - onEvent: called when something happened on the host.
    init(
        guest: VsockAddress, host: VsockAddress, _ fd: SharedFD, isRequested: Bool,
        on loop: EventLoop, onEvent: @escaping (VsockConnection) -> Void
    ) {
        self.guest = guest
        self.host = host
        self.fd = fd
        self.loop = loop
        self.onEvent = onEvent
        isEstablished = isRequested
        debts = isRequested ? .response : .request
    }

    /// Ends the connection for the program on the host.
    func close() {
        watch = nil
        isBroken = true
        _ = shutdown(fd.rawValue, Int32(SHUT_RDWR))
    }

    func fail() { isBroken = true }

    // MARK: To the guest

    /// The guest has closed it, and has been given and has given everything.
    private var isDone: Bool { guestShutdown == .both && backlog.isEmpty }

    /// Bytes that the guest has room for.
    private var credit: UInt32 {
        let open = sent &- guestForwarded
        return open < guestBufferSize ? guestBufferSize - open : 0
    }

    private var hasData: Bool {
        isEstablished && available > 0 && !guestShutdown.contains(.receive)
    }

    /// What the host does no more, once the guest has everything that came before.
    private var hostShutdown: VsockShutdown {
        guard isEstablished else { return [] }
        var flags: VsockShutdown = []
        if hasEnded, available == 0 { flags.insert(.send) }
        if isDeaf { flags.insert(.receive) }
        return flags
    }

    /// There is something to tell the guest.
    var isReady: Bool {
        isBroken || isDone || !debts.isEmpty || hasData && credit > 0 || hostShutdown != announced
    }

    /// Writes the next packet, which may be one that says nothing new.
    /// - Returns: its size; a reset is the last one.
    func fill(_ chain: DescriptorChain) -> (size: UInt32, isLast: Bool) {
        var header = VsockHeader(
            from: host, to: guest, VsockHeader.Operation.creditUpdate)
        if isBroken || isDone {
            header.operation = VsockHeader.Operation.reset
        } else if debts.contains(.request) {
            debts.remove(.request)
            header.operation = VsockHeader.Operation.request
        } else if debts.contains(.response) {
            debts.remove(.response)
            header.operation = VsockHeader.Operation.response
        } else if hasData, credit > 0 {
            header.length = receive(into: chain)
            if header.length > 0 { header.operation = VsockHeader.Operation.data }
            if isBroken { header.operation = VsockHeader.Operation.reset }
        } else if hostShutdown != announced {
            announced = hostShutdown
            header.operation = VsockHeader.Operation.shutdown
            header.flags = announced.rawValue
        } else if debts.contains(.creditRequest) {
            debts.remove(.creditRequest)
            header.operation = VsockHeader.Operation.creditRequest
        }
        // Every packet says this.
        debts.remove(.credit)
        told = forwarded
        header.bufferSize = Self.bufferSize
        header.forwarded = forwarded
        header.write(to: chain)
        return (
            UInt32(VsockHeader.size) + header.length,
            header.operation == VsockHeader.Operation.reset
        )
    }

    /// Reads from the socket to behind the header.
    private func receive(into chain: DescriptorChain) -> UInt32 {
        let room = chain.writableLength - UInt64(VsockHeader.size)
        let limit = min(room, UInt64(credit), Self.packetLimit)
        chain.trimWritable(first: UInt64(VsockHeader.size))
        chain.trimWritable(last: room - limit)
        let pieces = unsafe chain.writable
        // SAFETY: the pieces are mapped as long as the queue runs.
        let count = unsafe readv(fd.rawValue, pieces.baseAddress, Int32(min(pieces.count, 1024)))
        if count > 0 {
            available = max(available - count, 0)
            sent &+= UInt32(truncatingIfNeeded: count)
            if credit == 0 { debts.insert(.creditRequest) }
            return UInt32(truncatingIfNeeded: count)
        }
        available = 0
        if count == 0, limit > 0 { hasEnded = true }
        if count < 0, errno != EAGAIN, errno != EINTR { fail() }
        return 0
    }

    // MARK: The socket

    /// Waits for what matters now: called after everything that may change it.
    func updateWatch() {
        let wanted = wantedEvents
        guard wanted != watched else { return }
        watched = wanted
        watch = wanted.map { events in
            loop.watch(fd.rawValue, for: events) { [unowned self] in handle($0) }
        }
    }

    private var wantsInput: Bool {
        isEstablished && available == 0 && !hasEnded && !guestShutdown.contains(.receive)
    }

    /// Hangups are always reported: `nil` when one would mean nothing new.
    private var wantedEvents: IOEvents? {
        if isBroken { return nil }
        var events: IOEvents = []
        if wantsInput { events.insert(.readable) }
        if !backlog.isEmpty { events.insert(.writable) }
        if events.isEmpty, available > 0 || hasEnded && isDeaf { return nil }
        return events
    }

    private func handle(_ events: IOEvents) {
        withExtendedLifetime(self) {
            if !isEstablished {
                // The caller has given up before the guest has answered.
                fail()
                updateWatch()
                return onEvent(self)
            }
            if !backlog.isEmpty { drain() }
            if wantsInput {
                look(isHungUp: events.contains(.hangup))
            } else if events.contains(.hangup), available == 0 {
                hasEnded = true
                becomeDeaf()
            }
            updateWatch()
            onEvent(self)
        }
    }

    private func drain() {
        var taken = 0
        unsafe backlog.take { buffer in
            // SAFETY: the buffer lives for the call.
            taken = unsafe write(fd.rawValue, buffer.baseAddress, buffer.count)
            return taken
        }
        forwarded &+= UInt32(accepted(taken))
        noteCredit()
        endWriting()
    }

    /// Finds out what can be read.
    private func look(isHungUp: Bool) {
        guard let waiting = try? fd.waitingBytes() else { return fail() }
        available = waiting
        guard available == 0 else { return }
        var byte: UInt8 = 0
        // SAFETY: there is room for one byte.
        let end = unsafe recv(fd.rawValue, &byte, 1, Int32(MSG_PEEK | MSG_DONTWAIT))
        if end == 0 {
            hasEnded = true
            if isHungUp { becomeDeaf() }
        } else if end < 0, errno != EAGAIN, errno != EINTR {
            fail()
        }
    }
}
