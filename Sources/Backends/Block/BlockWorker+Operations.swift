internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

// How a request goes on: each completed operation leads to the next one or to the request's end.
extension BlockWorker {
    /// Whether writes must be on stable storage before they complete: always, unless the driver
    /// has agreed to flush and has not chosen a write-through cache (VIRTIO 1.3, section 5.2.6.2).
    private var isWriteThrough: Bool {
        features & BlockFeature.flush == 0 || !shared.isWriteback.load(ordering: .relaxed)
    }

    /// Hands the rest of a transfer to the engine.
    func submitTransfer(_ slot: UInt32) {
        let isRead = slots[slot].phase == .read
        guard isRead || isInsideImage(end: slots[slot].offset &+ slots[slot].remaining) else {
            return failShortened(slot)
        }
        var operation = IOOperation(kind: isRead ? .read : isWriteThrough ? .stableWrite : .write)
        operation.isCached = slots[slot].isCached
        operation.offset = slots[slot].offset
        operation.length = slots[slot].remaining
        // SAFETY: the slot keeps its parts until the operation has ended (RequestSlot.swift).
        unsafe operation.parts = slots[slot].parts
        // The kernel takes no more at once; the rest follows like that of any partial transfer.
        operation.partCount = min(slots[slot].partCount, Int32(CLINUX_IOV_MAX))
        submit(operation, slot)
    }

    /// Hands the current range to the engine.
    func submitRange(_ slot: UInt32) {
        // SAFETY: `range` is below the slot's range count, which its ranges hold.
        let range = unsafe slots[slot].ranges[Int(slots[slot].range)]
        if range.length == 0 { return finishRange(slot) }
        guard isInsideImage(end: range.offset &+ range.length) else { return failShortened(slot) }
        var operation = IOOperation(kind: .allocate)
        operation.offset = range.offset
        operation.length = range.length
        let isHole = slots[slot].phase == .discard || range.mayUnmap && image.canDiscard
        operation.mode =
            CLINUX_FALLOC_FL_KEEP_SIZE
            | (isHole ? CLINUX_FALLOC_FL_PUNCH_HOLE : CLINUX_FALLOC_FL_ZERO_RANGE)
        if slots[slot].phase == .discard && image.isBlockDevice { operation.kind = .discard }
        submit(operation, slot)
    }

    /// Goes on with a request after an operation; `result` is a number of bytes or -errno.
    func complete(_ slot: UInt32, _ result: Int64) {
        if leaves(result) { return leave(slot) }
        switch slots[slot].phase {
        case .read, .write: completeTransfer(slot, result)
        case .flush: completeFlush(slot, result)
        case .discard, .zero: completeRange(slot, result)
        case .zeroByWriting: completeZeroes(slot, result)
        case .free: preconditionFailure("a free slot completed")
        }
    }

    private func completeTransfer(_ slot: UInt32, _ result: Int64) {
        guard result > 0 else { return endTransfer(slot, result) }
        let count = UInt64(result)
        if count >= slots[slot].remaining { return finish(slot, .ok) }
        slots[slot].advance(by: count)
        submitTransfer(slot)
    }

    /// A transfer made no progress.
    private func endTransfer(_ slot: UInt32, _ result: Int64) {
        switch Int32(truncatingIfNeeded: -result) {
        case EINTR, EAGAIN:
            submitTransfer(slot)
        case EINVAL where image.isDirect && !slots[slot].isCached:
            // Direct I/O is pickier than it said.
            slots[slot].isCached = true
            submitTransfer(slot)
        default:
            fail(slot, result)
        }
    }

    private func completeFlush(_ slot: UInt32, _ result: Int64) {
        switch Int32(truncatingIfNeeded: -result) {
        case EINTR, EAGAIN: submit(IOOperation(kind: .sync), slot)
        case 0: finish(slot, .ok)
        default: fail(slot, result)
        }
    }

    private func completeRange(_ slot: UInt32, _ result: Int64) {
        switch Int32(truncatingIfNeeded: -result) {
        case EINTR, EAGAIN: submitRange(slot)
        case 0: finishRange(slot)
        case EOPNOTSUPP where slots[slot].phase == .zero: writeZeroes(slot)
        case EOPNOTSUPP: finish(slot, .unsupported)
        default: fail(slot, result)
        }
    }

    /// Goes on to the next range. After the last one, a write-through cache is flushed.
    private func finishRange(_ slot: UInt32) {
        slots[slot].range += 1
        if slots[slot].range < slots[slot].rangeCount { return submitRange(slot) }
        guard isWriteThrough else { return finish(slot, .ok) }
        slots[slot].phase = .flush
        submit(IOOperation(kind: .sync), slot)
    }

    /// Overwrites the current range with zeroes, piece by piece.
    private func writeZeroes(_ slot: UInt32) {
        slots[slot].phase = .zeroByWriting
        // SAFETY: as in `submitRange`.
        let range = unsafe slots[slot].ranges[Int(slots[slot].range)]
        slots[slot].offset = range.offset
        slots[slot].remaining = range.length
        slots[slot].isCached = image.isDirect
        submitZeroes(slot)
    }

    private func submitZeroes(_ slot: UInt32) {
        guard isInsideImage(end: slots[slot].offset &+ slots[slot].remaining) else {
            return failShortened(slot)
        }
        let length = min(slots[slot].remaining, UInt64(BlockShared.zeroesSize))
        // SAFETY: each slot has one such buffer of its own; the zeroes live as long as the device.
        unsafe slots[slot].zeroes.initialize(
            to: iovec(iov_base: shared.zeroes.base, iov_len: Int(length)))
        var operation = IOOperation(kind: .write)
        operation.isCached = slots[slot].isCached
        operation.offset = slots[slot].offset
        unsafe operation.parts = slots[slot].zeroes
        operation.partCount = 1
        submit(operation, slot)
    }

    private func completeZeroes(_ slot: UInt32, _ result: Int64) {
        switch Int32(truncatingIfNeeded: -min(result, 0)) {
        case EINTR, EAGAIN: submitZeroes(slot)
        case 0 where result > 0:
            let count = min(UInt64(result), slots[slot].remaining)
            slots[slot].offset += count
            slots[slot].remaining -= count
            if slots[slot].remaining > 0 { return submitZeroes(slot) }
            slots[slot].phase = .zero
            finishRange(slot)
        default: fail(slot, result)
        }
    }

    /// Ends a request that reaches behind the end of an image that was longer before.
    private func failShortened(_ slot: UInt32) {
        Self.log.guest("\(slots[slot].phase) failed: the image has become shorter")
        finish(slot, .ioError)
    }

    /// Ends a request because the host could not do it.
    private func fail(_ slot: UInt32, _ result: Int64) {
        let code = Int32(truncatingIfNeeded: -result)
        let phase = slots[slot].phase
        let reason =
            switch code {
            case 0: phase == .read ? "the image has become shorter" : "nothing was written"
            // The buffers were checked when the request came.
            case EFAULT: "the front end has taken the buffers' memory away"
            default: SystemError("", errno: code).reason
            }
        Self.log.guest("\(phase) at byte \(slots[slot].offset) failed: \(reason)")
        finish(slot, .ioError)
    }
}
