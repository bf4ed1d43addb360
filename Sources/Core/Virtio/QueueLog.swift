internal import Synchronization

/// Where a queue records what it writes to guest memory. The control thread replaces the log while
/// the queue runs; the queue's thread looks at an atomic generation and takes over a new log at its
/// next write, so its path has no lock. An old log stays mapped until it was replaced here.
// SAFETY: `shared` and `generation` are safe from any thread; the other fields belong to the thread
// that serves the queue.
final class QueueLog: @unchecked Sendable {
    private struct Target {
        var log: DirtyLog?
        var usedAddress: GuestAddress?
    }

    private let shared: Mutex<Target>
    private let generation = Atomic<UInt32>(0)

    private var seen: UInt32 = 0
    private var log: DirtyLog?
    private var usedAddress: GuestAddress?

    init(_ log: DirtyLog?, usedAddress: GuestAddress?) {
        shared = Mutex(Target(log: log, usedAddress: usedAddress))
        self.log = log
        self.usedAddress = usedAddress
    }

    /// Any thread: what is written from now on goes to `log`.
    func replace(_ log: DirtyLog?, usedAddress: GuestAddress?) {
        shared.withLock { $0 = Target(log: log, usedAddress: usedAddress) }
        generation.add(1, ordering: .releasing)
    }

    /// This, if writes are to be recorded at all.
    @inline(__always)
    var active: QueueLog? {
        let now = generation.load(ordering: .acquiring)
        if now != seen { takeOver(now) }
        return log != nil ? self : nil
    }

    @inline(never)
    private func takeOver(_ now: UInt32) {
        let target = shared.withLock { $0 }
        log = target.log
        usedAddress = target.usedAddress
        seen = now
    }

    /// Records the first `written` bytes of a chain's writable buffers, after they were written.
    @inline(never)
    func markBuffers(_ chain: inout ChainStorage, written: UInt32) {
        guard let log else { return }
        atomicMemoryFence(ordering: .releasing)
        var left = UInt64(written)
        for index in chain.readableCount..<chain.count where left > 0 {
            let piece = unsafe chain.pieces[index]
            let count = min(left, UInt64(piece.length))
            log.mark(GuestAddress(piece.address), count: count)
            left -= count
        }
    }

    /// Records a write of `count` bytes at `offset` of what `usedAddress` stands for: the used ring,
    /// or the descriptor ring of a packed queue.
    @inline(never)
    func markUsed(offset: Int, count: UInt64) {
        guard let log, let address = usedAddress?.advanced(by: UInt64(offset)) else { return }
        atomicMemoryFence(ordering: .releasing)
        log.mark(address, count: count)
    }

    /// Records a write of a packed queue's device area, which has no log address of its own.
    @inline(never)
    func markDeviceEvent(_ address: GuestAddress) {
        guard let log, usedAddress != nil else { return }
        atomicMemoryFence(ordering: .releasing)
        log.mark(address, count: 4)
    }
}
