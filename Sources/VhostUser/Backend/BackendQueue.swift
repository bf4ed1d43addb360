internal import Core

/// What a front end has said about one queue, and where that has led (vhost-user specification,
/// "Ring states"): stopped or started, and independently of that disabled or enabled.
final class BackendQueue {
    let index: Int

    var size: UInt16 = 0
    var address: VringAddress?
    /// Where to start; `nil` at the beginning. Split rings: only the available index counts.
    var base: QueueState?

    /// Signalled by the driver's side; `nil` before it is set, and where the ring is polled.
    private(set) var kick: EventFD?
    /// Waits for the first kick.
    private var kickWatch: EventRegistration?

    /// Signalled by the device's side: an event of our own, whose descriptor becomes what the front
    /// end names. So it can change while the device uses it.
    private var callEvent: EventFD?
    private(set) var wantsCalls = false
    private(set) var error: EventFD?
    /// Where calls and errors are messages: until the front end has said anything else.
    private var callMessage: MessageEvent?
    private var errorMessage: MessageEvent?
    /// There is no kick descriptor because the ring is polled.
    private var isPolled = false

    /// A kick has been seen since the ring was last stopped.
    private(set) var isStarted = false
    var isEnabled = false
    /// Where the device waits for translations.
    var iotlb: IOTLBClient?
    /// The part of the ring whose translation was asked for last, and has not come.
    var missing: UInt64?
    /// The device serves the ring.
    var isRunning = false
    /// The device could not start it; until something about the ring changes, it is left alone.
    var isBroken = false

    init(index: Int) { self.index = index }

    var call: EventFD? { callMessage?.event ?? (wantsCalls ? callEvent : nil) }

    /// - Parameters:
    ///   - fd: `nil` if the ring is to be polled.
    ///   - onFirst: called on the first kick, once the ring counts as started.
    func setKick(_ fd: SharedFD?, on loop: EventLoop, onFirst: @escaping () -> Void) {
        kickWatch?.cancel()
        kickWatch = nil
        kick = fd.map { EventFD(adopting: $0) }
        isPolled = fd == nil
        guard let kick else {
            isStarted = true
            return
        }
        if isStarted { return }
        kickWatch = loop.watch(kick.rawValue, for: .readable) { [unowned self] _ in
            // The event stays set, for the device to see.
            start()
            onFirst()
        }
    }

    /// The ring counts as started, without a kick.
    func start() {
        kickWatch?.cancel()
        isStarted = true
    }

    /// The ring is stopped until it gets another kick descriptor.
    func stop() {
        kickWatch?.cancel()
        kickWatch = nil
        kick = nil
        isPolled = false
        isStarted = false
        isBroken = false
        missing = nil
    }

    /// A kick came as a message.
    func takeKick() throws(SystemError) {
        if kick == nil, !isPolled { kick = try EventFD() }
        start()
        kick?.signalIfRoom()
    }

    /// Calls and errors are to be messages.
    func useMessages(
        on loop: EventLoop, call: @escaping () -> Void, error: @escaping () -> Void
    ) throws(SystemError) {
        callMessage = try MessageEvent(on: loop, call)
        let message = try MessageEvent(on: loop, error)
        errorMessage = message
        self.error = message.event
    }

    /// - Parameter fd: `nil` if the driver polls.
    /// - Returns: whether the device must be told.
    func setCall(_ fd: SharedFD?) throws(SystemError) -> Bool {
        let before = wantsCalls && callMessage == nil
        callMessage = nil
        if let fd {
            if callEvent == nil { callEvent = try EventFD() }
            try callEvent?.become(fd)
        }
        wantsCalls = fd != nil
        return before != wantsCalls
    }

    func setError(_ fd: SharedFD?) {
        errorMessage = nil
        error = fd.map { EventFD(adopting: $0) }
    }

    /// Everything is known that a device needs.
    var isConfigured: Bool { size > 0 && address != nil }
}

/// An event of our own that becomes a message.
private final class MessageEvent {
    let event: EventFD
    private var watch: EventRegistration?

    init(on loop: EventLoop, _ send: @escaping () -> Void) throws(SystemError) {
        event = try EventFD()
        watch = loop.watch(event.rawValue, for: .readable) { [unowned self] _ in
            event.drain()
            send()
        }
    }
}
