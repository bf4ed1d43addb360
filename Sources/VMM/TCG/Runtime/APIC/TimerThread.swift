internal import CLinux
internal import Core
internal import Synchronization

/// Rings the bells of CPUs whose timer is due, on the host's clock. One thread for all CPUs, which
/// sleeps until the earliest deadline it has heard of; it starts with the first deadline.
final class TimerThread: Sendable {
    /// What the thread and the CPUs share.
    private final class Shared: Sendable {
        let start: UInt64
        let apics = Mutex<[LocalAPIC]>([])
        /// When the thread will look next, in guest nanoseconds.
        let wakeUp = Atomic<UInt64>(UInt64.max)
        let word: FutexWord
        let isStopped = Atomic<Bool>(false)

        init(start: UInt64) {
            self.start = start
            word = FutexWord()
        }

        func run() {
            while !isStopped.load(ordering: .acquiring) {
                let ticket = word.value
                let now = Clock.monotonic() &- start
                let next = ringDue(now)
                wakeUp.store(next, ordering: .sequentiallyConsistent)
                // A deadline that was set before the store above is seen here.
                if hasDeadline(after: now, before: next) { continue }
                if next == UInt64.max {
                    word.wait(ticket, timeout: -1)
                } else {
                    let later = Clock.monotonic() &- start
                    if next > later { word.wait(ticket, timeout: Int64(clamping: next - later)) }
                }
            }
        }

        private func hasDeadline(after now: UInt64, before next: UInt64) -> Bool {
            apics.withLock { list in
                list.contains {
                    let deadline = $0.deadline.load(ordering: .sequentiallyConsistent)
                    return deadline > now && deadline < next
                }
            }
        }

        /// Rings for every timer that is due and returns the next deadline.
        private func ringDue(_ now: UInt64) -> UInt64 {
            var next = UInt64.max
            for apic in apics.withLock({ $0 }) {
                let deadline = apic.deadline.load(ordering: .acquiring)
                if deadline <= now {
                    apic.block.ring()
                    // It takes the CPU a moment to fire; look again if it does not.
                    next = min(next, now &+ 1_000_000)
                } else {
                    next = min(next, deadline)
                }
            }
            return next
        }
    }

    private let shared: Shared
    private let thread = Mutex<Thread?>(nil)

    init(start: UInt64) { shared = Shared(start: start) }

    func add(_ apic: LocalAPIC) { shared.apics.withLock { $0.append(apic) } }

    /// A deadline was set. Cheap unless the thread would sleep past it.
    func deadlineChanged(_ deadline: UInt64) {
        guard deadline < shared.wakeUp.load(ordering: .sequentiallyConsistent) else { return }
        thread.withLock { thread in
            if thread == nil {
                let shared = shared
                thread = try? Thread(name: "tcg-timer") { shared.run() }
            }
        }
        shared.word.wake()
    }

    deinit {
        shared.isStopped.store(true, ordering: .releasing)
        shared.word.wake()
        thread.withLock { $0?.join() }
    }
}

/// A word that threads wait on.
// SAFETY: the word is allocated for the object's lifetime and only used atomically.
@safe final class FutexWord: @unchecked Sendable {
    private let word: UnsafeMutablePointer<Atomic<UInt32>>

    init() {
        unsafe word = .allocate(capacity: 1)
        unsafe word.initialize(to: Atomic(0))
    }

    deinit { unsafe word.deallocate() }

    private var raw: UnsafeMutablePointer<UInt32> {
        unsafe UnsafeMutableRawPointer(word).assumingMemoryBound(to: UInt32.self)
    }

    var value: UInt32 { unsafe word.pointee.load(ordering: .sequentiallyConsistent) }

    /// Sleeps unless the value has changed, at most `timeout` nanoseconds (negative: for ever).
    func wait(_ expected: UInt32, timeout: Int64) {
        unsafe _ = clinux_futex_wait(raw, expected, timeout)
    }

    func wake() {
        unsafe word.pointee.wrappingAdd(1, ordering: .sequentiallyConsistent)
        unsafe _ = clinux_futex_wake(raw, 1)
    }
}
