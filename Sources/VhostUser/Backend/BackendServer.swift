package import Core

/// The device's side of vhost-user: offers a device on a Unix socket to one front end at a time,
/// for ever. A front end that breaks the rules loses its connection, and the next one is served.
///
/// Everything here, and every call of the device, happens on the loop's thread.
package final class BackendServer {
    /// How the server comes to its connections.
    package enum Role {
        /// Front ends connect to us.
        case listen(UnixListener)
        /// There is one connection; after it there is nothing left to serve.
        case connected(UnixSocket)

        /// The role that goes with a socket that was passed down.
        package init(_ socket: InheritedSocket) {
            switch socket {
            case .listening(let listener): self = .listen(listener)
            case .connected(let socket): self = .connected(socket)
            }
        }
    }

    /// What is offered.
    package struct Options: Sendable {
        /// Protocol features that are implemented but not to be offered, for front ends that
        /// stumble over them.
        package var hidden: ProtocolFeatures = []
        /// How long the rest of a message may take once it has begun.
        package var messageTimeoutMilliseconds: UInt32 = 5000
        /// How long a front end may let its answers, and what it is told, lie before its connection
        /// is of no more use. 0 where other front ends must not wait for one that does not read: a
        /// socket holds hundreds of answers.
        package var answerTimeoutMilliseconds: UInt64 = 5000
        /// For front ends that migrate guests by postcopy; `nil` for none (`RemoteFaults`).
        package var faultDevice: SharedFD?

        package init() {}
    }

    static let log = Log("vhost-user")
    private static let shortestRetry: UInt32 = 50
    private static let longestRetry: UInt32 = 1000

    private let device: any VirtioDevice
    private let loop: EventLoop
    private let role: Role
    private let options: Options
    private var session: BackendSession?
    private var acceptWatch: EventRegistration?
    private var retryTimer: EventRegistration?
    private var retryDelay = BackendServer.shortestRetry

    /// Called after a connection has ended.
    package var onDisconnect: (() -> Void)?
    /// Called once, when a queue has been started for the first time.
    package var onFirstStart: (() -> Void)?
    /// Called when the only connection (`Role.connected`) has ended.
    package var onFinished: (() -> Void)?

    package init(
        _ device: any VirtioDevice, on loop: EventLoop, as role: Role, options: Options = Options()
    ) {
        self.device = device
        self.loop = loop
        self.role = role
        self.options = options
    }

    deinit { stop() }

    /// Begins to serve.
    package func start() { waitForFrontend() }

    /// Ends the connection, if there is one, and serves no more.
    package func stop() {
        acceptWatch = nil
        retryTimer = nil
        session?.close()
        session = nil
    }

    /// Whether a front end is connected.
    package var isConnected: Bool { session != nil }

    /// Tells the front end that the device's configuration space has changed.
    package func configurationChanged() { session?.configurationChanged() }

    private func waitForFrontend() {
        switch role {
        case .listen(let listener):
            acceptWatch = loop.watch(listener.fd.rawValue, for: .readable) { [unowned self] _ in
                accept(from: listener)
            }
        case .connected(let socket): serve(socket)
        }
    }

    private func accept(from listener: UnixListener) {
        do {
            guard let socket = try listener.accept() else { return }
            // The others wait in the listener's queue until this one has gone.
            acceptWatch = nil
            serve(socket)
        } catch {
            Self.log(.error, "a connection could not be accepted: \(error)")
            retryLater()
        }
    }

    private func retryLater() {
        acceptWatch = nil
        retryTimer = loop.after(milliseconds: retryDelay) { [unowned self] in
            waitForFrontend()
        }
        retryDelay = min(retryDelay * 2, Self.longestRetry)
    }

    private func serve(_ socket: UnixSocket) {
        Self.log(.info, "a front end has connected")
        retryDelay = Self.shortestRetry
        do {
            session = try BackendSession(device, socket, on: loop, options: options) {
                [unowned self] in ended()
            }
            session?.onQueueStart = { [unowned self] in queueStarted() }
        } catch {
            Self.log(.error, "a front end cannot be served: \(error)")
            ended()
        }
    }

    private func queueStarted() {
        onFirstStart?()
        onFirstStart = nil
    }

    private func ended() {
        session = nil
        onDisconnect?()
        switch role {
        case .listen: waitForFrontend()
        case .connected: onFinished?()
        }
    }
}
