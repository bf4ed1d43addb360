internal import CGLib
internal import Glibc
internal import Synchronization

/// What a descriptor is watched for, or what happened to it.
package struct IOEvents: OptionSet, Sendable {
    package let rawValue: UInt32

    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let readable = IOEvents(rawValue: 1)
    package static let writable = IOEvents(rawValue: 2)
    /// The peer has gone, or the descriptor is broken. Reported whether asked for or not.
    package static let hangup = IOEvents(rawValue: 4)
}

/// An event loop for the control plane: sockets, timers, signals, children. It stands on a main
/// context of GLib, so that GLib libraries can join it.
///
/// A loop belongs to the thread that runs it. Register from that thread, or before it runs; only
/// `post` and `quit` may be called from others. Handlers run on that thread, one at a time, and
/// should not block.
///
/// A registration is held by the token that the call returns: dropping or cancelling the token ends
/// it, and the handler (with what it captures) is released then. An object that keeps the token of
/// a handler that refers to it must capture itself `weak` or `unowned`.
///
/// A late event for a descriptor number that was closed and used again cannot reach the wrong
/// handler: each registration is a GLib source of its own, and GLib drops what is pending for a
/// source that is destroyed.
// SAFETY: the context is valid while this object lives, and GLib locks it where threads meet.
@safe package final class EventLoop: Sendable {
    private struct Shared {
        /// Work from other threads that has not run yet, in order.
        var posted: [@Sendable () -> Void] = []
        var mustQuit = false
    }

    // SAFETY: written only by init; GMainContext is safe to share between threads.
    nonisolated(unsafe) let context: OpaquePointer
    private let shared = Lock(Shared())
    /// Wakes the loop for posted work.
    private let wakeUp: EventFD
    // SAFETY: written by init and deinit only.
    nonisolated(unsafe) private var wakeUpToken: EventRegistration?
    /// The thread that is inside `run`; 0 if none is.
    private let owner = Atomic<UInt>(0)

    package init() throws(SystemError) {
        wakeUp = try EventFD()
        unsafe context = g_main_context_new()
        unsafe wakeUpToken = watch(wakeUp.rawValue, for: .readable) { [unowned self] _ in
            wakeUp.drain()
            runPosted()
        }
    }

    deinit {
        unsafe wakeUpToken = nil
        // SAFETY: sources that are still registered keep a reference of their own.
        unsafe g_main_context_unref(context)
    }

    /// Whether the calling thread may register and cancel.
    package var isOnLoop: Bool {
        let owner = owner.load(ordering: .relaxed)
        return owner == 0 || owner == UInt(pthread_self())
    }

    /// Calls `handler` whenever `fd` is ready. The descriptor stays the caller's, who cancels the
    /// registration before closing it.
    package func watch(
        _ fd: Int32, for events: IOEvents, _ handler: @escaping (IOEvents) -> Void
    ) -> EventRegistration {
        watch(fd, for: events, endsWhen: { false }, handler)
    }

    /// Calls `handler` once, `milliseconds` from now.
    package func after(
        milliseconds: UInt32, _ handler: @escaping () -> Void
    ) -> EventRegistration {
        timer(milliseconds, repeats: false, handler)
    }

    /// Calls `handler` every `milliseconds`.
    package func every(
        milliseconds: UInt32, _ handler: @escaping () -> Void
    ) -> EventRegistration {
        timer(milliseconds, repeats: true, handler)
    }

    private func timer(
        _ milliseconds: UInt32, repeats: Bool, _ handler: @escaping () -> Void
    ) -> EventRegistration {
        precondition(isOnLoop, "an event loop takes registrations on its own thread only")
        return unsafe EventRegistration(
            milliseconds: milliseconds, repeats: repeats, context: context, handler)
    }

    /// Calls `handler` for each of `signals`. They are blocked in the calling thread; see
    /// `SignalFD` about the others.
    package func watchSignals(
        _ signals: [Int32], _ handler: @escaping (Int32) -> Void
    ) throws(SystemError) -> EventRegistration {
        let source = try SignalFD(signals)
        return watch(source.fd.rawValue, for: .readable) { _ in
            while let signal = source.next() { handler(signal) }
        }
    }

    /// Calls `handler` once, when `child` has ended. The handler keeps `child` alive.
    package func watchExit(
        of child: ChildProcess, _ handler: @escaping (ChildStatus) -> Void
    ) -> EventRegistration {
        // A pidfd stays readable; the status can be taken only once, and the registration is
        // the caller's to cancel, so it is muted here.
        var isDone = false
        return watch(child.fd.rawValue, for: .readable, endsWhen: { isDone }) { _ in
            guard !isDone, let status = child.reap() else { return }
            isDone = true
            handler(status)
        }
    }

    private func watch(
        _ fd: Int32, for events: IOEvents, endsWhen isOver: @escaping () -> Bool,
        _ handler: @escaping (IOEvents) -> Void
    ) -> EventRegistration {
        precondition(isOnLoop, "an event loop takes registrations on its own thread only")
        return unsafe EventRegistration(
            fd: fd, events: events, context: context, endsWhen: isOver, handler)
    }

    /// Runs `work` on the loop's thread, in the order of the calls; from any thread.
    package func post(_ work: @escaping @Sendable () -> Void) {
        shared.withLock { $0.posted.append(work) }
        wakeUp.signal()
    }

    private func runPosted() {
        let works = shared.withLock { state in
            defer { state.posted.removeAll() }
            return state.posted
        }
        for work in works { work() }
    }

    /// Serves events on the calling thread until `quit`.
    package func run() {
        enter { while !shared.withLock({ $0.mustQuit }) { iterate() } }
        shared.withLock { $0.mustQuit = false }
    }

    /// Makes `run` return after the current handler, or at once when it is next called; from any
    /// thread.
    package func quit() {
        shared.withLock { $0.mustQuit = true }
        wakeUp.signal()
    }

    /// Waits for events and serves those that are there; only inside of `enter`.
    package func iterate() {
        // SAFETY: the context is valid; this thread owns the loop.
        unsafe _ = g_main_context_iteration(context, 1)
    }

    /// Makes the loop the calling thread's while `body` runs.
    package func enter<R>(_ body: () -> R) -> R {
        let before = owner.exchange(UInt(pthread_self()), ordering: .relaxed)
        precondition(before == 0 || before == UInt(pthread_self()), "a loop runs on one thread")
        defer { owner.store(before, ordering: .relaxed) }
        return body()
    }
}
