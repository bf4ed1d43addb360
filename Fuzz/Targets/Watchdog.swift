import Core
import Synchronization

@testable import TCG

/// Stops CPUs that run for too long without counting anything: faults whose handlers fault.
final class Watchdog {
    private struct State {
        var deadline = UInt64.max
        var vcpu: TCGVCPU?
        var hasBarked = false
        var isOver = false
    }

    private final class Shared: Sendable {
        let state = Mutex(State())
    }

    private static let patience: UInt64 = 100_000_000
    private let shared = Shared()
    private let thread: Thread

    init() throws {
        let shared = shared
        thread = try Thread(name: "fuzz-watchdog") {
            while !shared.state.withLock({ $0.isOver }) {
                shared.state.withLock { state in
                    guard let vcpu = state.vcpu, Clock.monotonic() > state.deadline else { return }
                    state.hasBarked = true
                    vcpu.kick()
                }
                Clock.sleep(milliseconds: 10)
            }
        }
    }

    deinit {
        shared.state.withLock { $0.isOver = true }
        thread.join()
    }

    var hasBarked: Bool { shared.state.withLock { $0.hasBarked } }

    /// Kicks the CPU when `body` takes too long.
    func watch(_ vcpu: TCGVCPU, _ body: () -> Void) {
        shared.state.withLock {
            $0 = State(deadline: Clock.monotonic() &+ Self.patience, vcpu: vcpu)
        }
        body()
        shared.state.withLock { $0.vcpu = nil }
    }
}
