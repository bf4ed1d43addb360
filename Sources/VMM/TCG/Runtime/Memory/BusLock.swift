internal import Glibc
internal import Synchronization

/// What a LOCKed access that crosses a border of pages or cache lines holds in a machine with
/// several CPUs. Other accesses across pages that write hold it as well, so that such an operand is
/// as good a lock as any other as long as nobody writes to a part of it. Those across cache lines
/// do not: see `modifyAcrossLines`.
final class BusLock: Sendable {
    private let isHeld = Atomic<Bool>(false)

    func lock() {
        while isHeld.exchange(true, ordering: .acquiring) { sched_yield() }
    }

    func unlock() { isHeld.store(false, ordering: .releasing) }
}
