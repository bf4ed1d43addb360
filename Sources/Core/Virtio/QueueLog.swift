internal import Synchronization

/// Where a queue records what it writes to guest memory (vhost-user specification, "Migration").
final class QueueLog: Sendable {
    private let log: DirtyLog
    private let usedAddress: GuestAddress?
    private let event: EventFD?

    /// - Returns: `nil` if nothing is to be recorded.
    init?(_ setup: QueueSetup) {
        guard let log = setup.dirtyLog else { return nil }
        self.log = log
        usedAddress = setup.usedLogAddress
        event = setup.dirtyLogEvent
    }

    /// Records the first `written` bytes of a chain's writable buffers, after they were written.
    @inline(never)
    func markBuffers(_ chain: inout ChainStorage, written: UInt32) {
        atomicMemoryFence(ordering: .releasing)
        var left = UInt64(written)
        for index in chain.readableCount..<chain.count where left > 0 {
            // SAFETY: the index is below the count of the chain's pieces.
            let piece = unsafe chain.pieces[index]
            let count = min(left, UInt64(piece.length))
            log.mark(GuestAddress(piece.address), count: count)
            left -= count
        }
    }

    /// Records a write of `count` bytes at `offset` of what `usedAddress` stands for: the used
    /// ring, or the descriptor ring of a packed queue.
    @inline(never)
    func markUsed(offset: Int, count: UInt64) {
        guard let address = usedAddress?.advanced(by: UInt64(offset)) else { return }
        atomicMemoryFence(ordering: .releasing)
        log.mark(address, count: count)
    }

    /// Records a write of a packed queue's device area, which has no log address of its own.
    @inline(never)
    func markDeviceEvent(_ address: GuestAddress) {
        guard usedAddress != nil else { return }
        atomicMemoryFence(ordering: .releasing)
        log.mark(address, count: 4)
    }

    /// Tells whoever waits for it that the log has changed.
    func announce() { event?.signalIfRoom() }
}
