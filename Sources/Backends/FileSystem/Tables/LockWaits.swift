internal import Core
internal import Synchronization

/// The requests that wait for locks, of all queues, and how their threads are told that it is time
/// to try again.
final class LockWaits: Sendable {
    private struct Wait {
        let unique: UInt64
        /// What wakes the thread of its queue.
        let kick: EventFD
        var isInterrupted = false
    }

    private let waits = Lock<[Wait]>([])
    private let counter = Atomic<UInt64>(0)

    /// Changes when a lock may have become free.
    var changes: UInt64 { counter.load(ordering: .acquiring) }

    func add(_ unique: UInt64, _ kick: EventFD) {
        waits.withLock { $0.append(Wait(unique: unique, kick: kick)) }
    }

    func remove(_ unique: UInt64, _ kick: EventFD) {
        waits.withLock { waits in
            let index = waits.firstIndex { $0.unique == unique && $0.kick === kick }
            if let index { waits.remove(at: index) }
        }
    }

    /// Locks may have become free.
    func retry() {
        waits.withLock { waits in
            if waits.isEmpty { return }
            counter.add(1, ordering: .releasing)
            for wait in waits { wait.kick.signal() }
        }
    }

    /// Nobody wants a request's answer any more.
    /// - Returns: whether it waits.
    func interrupt(_ unique: UInt64) -> Bool {
        waits.withLock { waits in
            guard let index = waits.firstIndex(where: { $0.unique == unique }) else {
                return false
            }
            waits[index].isInterrupted = true
            counter.add(1, ordering: .releasing)
            waits[index].kick.signal()
            return true
        }
    }

    func isInterrupted(_ unique: UInt64) -> Bool {
        waits.withLock { $0.contains { $0.unique == unique && $0.isInterrupted } }
    }
}
