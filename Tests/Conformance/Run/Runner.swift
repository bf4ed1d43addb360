import Core
import Glibc
import TestSupport

/// What came of a case.
enum Verdict: Equatable {
    case passed
    case failed(String)
    /// It survived; no more is asked of what it does not offer.
    case notOffered
    /// There is nobody left to test.
    case notRun
}

/// Runs cases against a back end, one after the other, and looks after each whether the next front
/// end is served.
final class Runner {
    let backend: Backend
    let kind: DeviceKind
    let facts: Facts
    let deadline: UInt64
    private(set) var leaks: LeakWatch
    private var index = 0
    private(set) var isLost = false
    /// The size of the reply to GET_INFLIGHT_FD: 20 bytes, or 24 with the padding of C's structure.
    private(set) var inflightReplySize: Int?

    init(_ backend: Backend, _ kind: DeviceKind, deadline: UInt64) throws {
        self.backend = backend
        self.kind = kind
        self.deadline = deadline
        leaks = LeakWatch(backend)
        facts = try Self.explore(backend, deadline: deadline)
    }

    private static func explore(_ backend: Backend, deadline: UInt64) throws -> Facts {
        var facts = try Facts(backend.connect())
        facts.canRestart = backend.isOurs
        guard backend.isOurs else { return facts }
        // Either it ends, or it answers the next front end.
        let limit = Clock.monotonic() + deadline * 1_000_000
        while true {
            let isLate = Clock.monotonic() >= limit
            if let status = backend.awaitEnd(milliseconds: 50) {
                guard case .exited = status else {
                    throw Failure("the back end \(backend.endDescription)")
                }
                facts.servesOneClient = true
                return facts
            }
            if isLate || backend.answers() { return facts }
        }
    }

    func open(_ step: Step, isPacked: Bool) throws -> Session {
        let session = try Session(
            backend.connect(), facts, kind, isPacked: isPacked, timeout: deadline)
        try session.reach(step)
        return session
    }

    // MARK: One case

    func run(_ tested: Case) -> Verdict {
        guard !isLost else { return .notRun }
        index += 1
        let isPacked = facts.isPacked && index % 2 == 1
        var failure: String?
        do {
            try prepare()
            failure = try attempt(tested, isPacked: isPacked)
        } catch {
            failure = "\(error)"
        }
        failure = facts.servesOneClient ? ended(failure) : next(failure, isPacked: isPacked)
        if let failure { return .failed(failure) }
        return tested.isOffered ? .passed : .notOffered
    }

    /// Gets a back end that serves. What it makes once, at the first need, is made before anything
    /// is counted.
    private func prepare() throws {
        backend.forgetLog()
        guard !facts.servesOneClient else { return }
        try backend.ensureRunning()
        guard leaks.isStale else { return }
        leaks.restart()
        for isPacked in facts.isPacked ? [false, true] : [false] {
            for _ in 0..<2 {
                let session = try open(.running, isPacked: isPacked)
                withExtendedLifetime(session) { leaks.learn(isPacked: isPacked) }
            }
        }
    }

    private func attempt(_ tested: Case, isPacked: Bool) throws -> String? {
        let session: Session
        do {
            session = try open(tested.step, isPacked: isPacked)
        } catch {
            return "the step is not reached: \(error)"
        }
        if let inflight = session.inflight { inflightReplySize = inflight.description.count }
        switch tested.action {
        case .special(let special): return try perform(special, session)
        case .send(let request, let wantsAck, let make):
            var packet = try make(session)
            if wantsAck { packet.flags |= 8 }
            let outcome = Exchange(session: session, request: request).run(packet)
            let judge = Judge(
                tested: tested, wantsAck: wantsAck, packet: packet, deadline: deadline)
            if let failure = judge.failure(outcome) { return failure }
            return ringsFailure(tested, session)
        }
    }

    /// Whether I/O goes on after a message that must not disturb it.
    private func ringsFailure(_ tested: Case, _ session: Session) -> String? {
        guard tested.expectation == .accepted, tested.keepsRings, tested.step.isServing else {
            return nil
        }
        do {
            try session.checkBusyDevice()
            return nil
        } catch {
            return "I/O does not go on: \(error)"
        }
    }

    // MARK: What is left

    /// A back end for one front end has to end cleanly.
    private func ended(_ failure: String?) -> String? {
        guard let status = backend.awaitEnd(milliseconds: deadline) else {
            backend.kill()
            return failure ?? "it does not end with its front end"
        }
        guard case .killed(let signal) = status, signal != SIGKILL, signal != SIGTERM else {
            return failure
        }
        return "the back end \(backend.endDescription)"
    }

    /// The next front end has to be served, and nothing may be left of the last one.
    private func next(_ failure: String?, isPacked: Bool) -> String? {
        do {
            let session = try open(.running, isPacked: isPacked)
            let leak = withExtendedLifetime(session) { leaks.growth(isPacked: isPacked) }
            guard let leak else { return failure }
            // The cases behind it are not to suffer.
            if backend.isOurs { backend.kill() }
            return failure ?? "\(leak) descriptors stay open"
        } catch {
            return lose(error, failure)
        }
    }

    private func lose(_ error: any Error, _ failure: String?) -> String {
        guard backend.isOurs else {
            do {
                _ = try backend.connect()
            } catch {
                isLost = true
                return "the back end has gone"
            }
            return failure ?? "the next front end is not served: \(error)"
        }
        if backend.awaitEnd(milliseconds: 300) != nil {
            return "the back end \(backend.endDescription)"
        }
        // It hangs: the next case gets a new one.
        backend.kill()
        return [failure, "the next front end is not served: \(error)"].compactMap { $0 }
            .joined(separator: "; ")
    }
}
