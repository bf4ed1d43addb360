package import Core
internal import Glibc

// One back end takes over from another that still works, and the driver does not notice.
extension Frontend {
    /// How long the new back end may take to introduce itself; the old one works meanwhile.
    private static let introductionMilliseconds: UInt64 = 3000

    /// Replaces the back end by the one at the other end of `socket`: the old one finishes what it
    /// has taken and says what it knows, and the new one goes on from there.
    /// - Throws: why the new one cannot be used. If that shows before the old one has been stopped,
    ///   or the old one keeps its state, or the new one does not take it, the device goes on as before;
    ///   otherwise the back end is lost.
    package func upgrade(to socket: UnixSocket) throws(FrontendError) {
        guard let old = link else { return try attach(socket) }
        var options = options
        options.handshakeTimeoutMilliseconds = min(
            options.handshakeTimeoutMilliseconds, Self.introductionMilliseconds)
        let new = FrontendLink(socket, on: loop, options: options)
        do {
            try introduce(new)
        } catch {
            throw FrontendError("the new back end cannot be used, and the old one stays: \(error)")
        }
        let saved = try handOver(old, to: new)
        do {
            try prepare(new, state: saved)
            disconnect()
            try hold(socket)
            try begin(new)
        } catch {
            if let refusal = error as? LinkError, case .refused = refusal, link === old {
                resume(old)
                throw FrontendError(
                    "the new back end does not go on (\(error)), and the old one stays")
            }
            disconnect()
            // In the midst of the verbs: whoever hears of it looks for another back end.
            lost("it could not be replaced: \(error)")
            throw FrontendError("the new back end cannot take over: \(error)")
        }
        adopt(new)
        Self.log(.info, "a new back end has taken over")
    }

    /// Stops the old back end. If it dies of that, the new one starts with what is known of any that
    /// has died.
    /// - Returns: the device's state, where both know how to pass it on.
    /// - Throws: the old one does not pass its state on, and goes on.
    private func handOver(
        _ old: FrontendLink, to new: FrontendLink
    ) throws(FrontendError) -> [UInt8]? {
        do {
            for index in queues.indices where queues[index] != nil {
                let state = try fetchState(old, index, mayLeave: new.has(.inflight))
                queues[index]?.setup.state = state
            }
        } catch {
            return withoutState(error)
        }
        guard old.has(.deviceState), new.has(.deviceState) else { return nil }
        do throws(LinkError) {
            return try old.saveState()
        } catch {
            guard case .refused = error else { return withoutState(error) }
            resume(old)
            throw FrontendError(
                "the old back end does not pass on what it knows (\(error)), and stays")
        }
    }

    private func withoutState(_ error: any Error) -> [UInt8]? {
        Self.log(.warning, "the old back end does not say how far it got: \(error)")
        return nil
    }

    /// Starts the queues of a back end again that has been stopped.
    private func resume(_ link: FrontendLink) {
        do throws(LinkError) {
            try sendQueues(link)
        } catch {
            lost("\(error)")
        }
    }

    /// Finds another back end at the place where this one was found: somebody has put a newer one
    /// there. Between its beginning and its listening, it is waited for.
    package func upgradeFromPath(
        timeoutMilliseconds: UInt64 = listeningMilliseconds
    ) throws(FrontendError) {
        guard case .connect(let path) = options.role else {
            throw FrontendError("the back end is not found by a path")
        }
        try upgrade(to: try Self.awaitListening(at: path, timeoutMilliseconds))
    }

    /// How long a new back end may take to listen; the old one works meanwhile.
    package static let listeningMilliseconds: UInt64 = 2000

    private static func awaitListening(
        at path: String, _ timeoutMilliseconds: UInt64
    ) throws(FrontendError) -> UnixSocket {
        let deadline = Clock.monotonic() &+ timeoutMilliseconds &* 1_000_000
        while true {
            do throws(SystemError) {
                return try UnixSocket(connectingTo: path)
            } catch {
                // There is no socket yet, nobody listens at it yet, or others come first.
                guard [ENOENT, ECONNREFUSED, EAGAIN].contains(error.code),
                    Clock.monotonic() < deadline
                else {
                    throw FrontendError("no new back end answers at \(path): \(error.reason)")
                }
            }
            Clock.sleep(milliseconds: 10)
        }
    }
}
