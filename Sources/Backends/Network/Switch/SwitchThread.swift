internal import CLinux
internal import Core
internal import Glibc

/// The thread that has a switch to itself, and does there what another thread asks for.
// SAFETY: `work` belongs to the control thread until `calls` is signalled, and from then on to the
// switch's until `answers` is.
@safe final class SwitchThread {
    let network: FrameSwitch
    private let calls: EventFD
    private let answers: EventFD
    private var thread: Thread?
    nonisolated(unsafe) private var work: (() -> Void)?

    init(_ network: FrameSwitch) throws(SystemError) {
        self.network = network
        calls = try EventFD()
        answers = try EventFD()
    }

    deinit { stop() }

    /// - Parameter prepare: called first by the thread.
    func start(_ prepare: @escaping @Sendable () -> Void = {}) throws(SystemError) {
        // SAFETY: the control thread waits while the other one looks at its properties.
        nonisolated(unsafe) let unownedSelf = unsafe Unmanaged.passUnretained(self)
        thread = try Thread(name: "switch") {
            prepare()
            unsafe unownedSelf._withUnsafeGuaranteedRef { $0.run() }
        }
    }

    private func run() {
        while true {
            network.run(until: calls)
            calls.drain()
            guard let work = unsafe work else { return }
            work()
            answers.signal()
        }
    }

    func stop() {
        guard let thread else { return }
        calls.signal()
        thread.join()
        self.thread = nil
    }

    /// Does something that the switch must not be at work for.
    func perform<R>(_ body: @escaping () -> R) -> R? {
        guard thread != nil else { return body() }
        var result: R?
        unsafe work = { result = body() }
        calls.signal()
        while clinux_poll_two(answers.rawValue, Int16(POLLIN), -1, 0, -1) & 1 == 0 {}
        answers.drain()
        unsafe work = nil
        return result
    }
}
