import Core
import Glibc
import TestSupport

extension Runner {
    /// Does what a special case is about.
    /// - Returns: what is wrong.
    func perform(_ special: SpecialCase, _ session: Session) throws -> String? {
        switch special {
        case .leave: return nil
        case .halfClose: return halfClose(session)
        case .pipeline: return try pipeline(session)
        case .resume:
            if session.step != .suspended { try session.stopAll() }
            try session.resume()
        case .restart: try session.restart()
        case .kill: return kill()
        case .terminate: return terminate()
        case .replay: return try replay(session)
        case .handOver: try handOver(session)
        }
        return nil
    }

    private func halfClose(_ session: Session) -> String? {
        shutdown(session.client.socket.fd.rawValue, Int32(SHUT_WR))
        do {
            let message = try session.client.receiveMessage()
            return "it sends a message \(message.request)"
        } catch let failure as VhostUserClient.Failure where failure.kind == .closed {
            return nil
        } catch {
            return "it does not close its end"
        }
    }

    private func pipeline(_ session: Session) throws -> String? {
        let count = 100
        var bytes: [UInt8] = []
        for _ in 0..<count {
            bytes += VhostUserClient.packet(1, []) + VhostUserClient.packet(15, [])
        }
        try session.client.socket.send(bytes)
        for _ in 0..<count {
            _ = try session.client.reply(to: .getFeatures)
            _ = try session.client.reply(to: .getProtocolFeatures)
        }
        return nil
    }

    private func kill() -> String? {
        backend.kill()
        return nil
    }

    /// SIGTERM has to end it, quickly and cleanly.
    private func terminate() -> String? {
        guard let status = backend.signal(SIGTERM, milliseconds: deadline) else {
            backend.kill()
            return "SIGTERM does not end it within \(deadline) ms"
        }
        if case .killed(let signal) = status, signal != SIGTERM {
            return "SIGTERM ends it by \(ProcessFiles.signalName(signal))"
        }
        return nil
    }

    /// Kills a back end that is at rest, and has another one go on with its state.
    private func handOver(_ session: Session) throws {
        guard facts.has(.deviceState) else { return backend.kill() }
        let state = try session.saveState()
        backend.kill()
        let next = try session.takeOver(on: backend.connect(), state)
        try next.checkDevice()
    }

    /// Kills the back end with requests under way; the next one has to finish them.
    private func replay(_ session: Session) throws -> String? {
        guard facts.has(.inflight) else { return kill() }
        session.driver?.launch(session.lane)
        usleep(UInt32.random(in: 0...300))
        backend.kill()
        let next = try session.replay(on: backend.connect())
        do {
            try next.checkBusyDevice()
            return nil
        } catch {
            return "what was under way is not finished: \(error)"
        }
    }
}

extension Session {
    /// Stops all rings.
    func stopAll() throws {
        for index in lanes.indices { try stop(index) }
    }
}
