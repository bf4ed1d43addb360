internal import Core
internal import Synchronization

// Lockstep: runs that repeat, although the device is another process with a pace of its own. The
// guest stands still from a notification until the device has used everything that is available and
// asks for notifications again; then the driver is interrupted, if it wants. So all that a device
// does happens between two instructions of the guest, always the same two.
//
// The device's own calls are not heard: whether to interrupt follows from the rings, which do not
// change while the guest stands still. Rings are split and without event indices, so that they tell
// everything. The device must give buffers back in the order in which it took them.
extension VirtioPCI {
    /// What a driver is not offered.
    static let lockstepExcluded = VirtioFeature.eventIndex | VirtioFeature.packedRing

    /// Whether the guest must wait for the device.
    var isAwaited: Bool { pace == .lockstep && awaited.withLock { !$0.isEmpty } }

    /// A queue is about to be started. A back end does so at the first kick, and asks for
    /// notifications when it has looked at the ring once; until then it is shown as one that does
    /// not.
    func prepareLockstep(_ queue: Int, _ layout: QueueLayout) {
        guard pace == .lockstep else { return }
        let ring = RingView(memory: memory, layout: layout)
        ring.suppressNotifications()
        unsafe controlState.reported[queue] = ring.usedIndex ?? 0
        awaited.withLock { $0[queue] = true }
    }

    /// Looks whether the device has done all that it was notified of, and interrupts the driver for
    /// queues that are done. Call it on the control thread until it is true.
    package func settle() -> Bool {
        let needsReset = registers.withLock { $0.status & VirtioStatus.needsReset != 0 }
        for (queue, needsKick) in awaited.withLock({ $0 }) {
            // SAFETY: on the control thread, here and below.
            let isRunning = unsafe controlState.isRunning[queue]
            let layout = registers.withLock { $0.queues[queue].layout }
            let ring = RingView(memory: memory, layout: layout)
            guard needsReset || !isRunning || ring.isDone else {
                // A kick for which there is nothing to do would stir the device while the guest
                // runs, so it waits for this place.
                if needsKick { kicks[queue].signalIfRoom() }
                awaited.withLock { $0[queue] = false }
                continue
            }
            awaited.withLock { _ = $0.removeValue(forKey: queue) }
            guard isRunning, let used = ring.usedIndex, unsafe used != controlState.reported[queue]
            else { continue }
            unsafe controlState.reported[queue] = used
            if ring.wantsInterrupts { interruptQueue(queue) }
        }
        return awaited.withLock { $0.isEmpty }
    }
}

/// A split virtqueue as somebody sees it who is neither driver nor device (VIRTIO 1.3, section
/// 2.7).
private struct RingView {
    let memory: GuestMemory
    let layout: QueueLayout

    /// Whether everything available has been used, and the device asks for notifications. In this
    /// order: the device refuses them before it uses a buffer, and asks for them afterwards.
    var isDone: Bool {
        guard let used = usedIndex, used == word(layout.driver, 2) else { return false }
        return word(layout.device, 0).map { $0 & 1 == 0 } ?? false  // VIRTQ_USED_F_NO_NOTIFY
    }

    var usedIndex: UInt16? { word(layout.device, 2) }

    var wantsInterrupts: Bool {
        word(layout.driver, 0).map { $0 & 1 == 0 } ?? false  // VIRTQ_AVAIL_F_NO_INTERRUPT
    }

    func suppressNotifications() {
        // A ring outside memory is refused when the queue starts.
        try? memory.write(layout.device, 1 as UInt16)
    }

    private func word(_ part: GuestAddress, _ offset: UInt64) -> UInt16? {
        part.advanced(by: offset).flatMap { try? memory.read($0, as: UInt16.self) }
    }
}
