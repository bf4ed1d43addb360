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

    /// Whom the user waits for who asks for a record lock.
    private struct Blocker {
        let unique: UInt64
        let user: UInt64
    }

    private let waits = Lock<[Wait]>([])
    /// By user.
    private let blockers = Lock<[UInt64: Blocker]>([:])
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
        blockers.withLock { blockers in
            let user = blockers.first { $0.value.unique == unique }?.key
            if let user { blockers[user] = nil }
        }
    }

    /// A user is about to wait for another one.
    /// - Returns: `false`: that one waits for the first, perhaps by way of others.
    func wait(_ unique: UInt64, of user: UInt64, for other: UInt64) -> Bool {
        blockers.withLock { blockers in
            var next: UInt64? = other
            for _ in 0...blockers.count {
                guard let current = next else { break }
                if current == user { return false }
                next = blockers[current]?.user
            }
            blockers[user] = Blocker(unique: unique, user: other)
            return true
        }
    }

    /// Locks may have become free: who waits then says anew for whom.
    func retry() {
        blockers.withLock { $0 = [:] }
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
