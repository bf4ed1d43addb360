internal import CAIO
internal import CLinux
internal import Core
internal import Glibc

/// Does I/O through the kernel's older asynchronous interface (io_submit(2)), which is asynchronous
/// only for direct I/O. What it cannot do, or only by blocking, is done with ordinary system calls.
// SAFETY: the buffers have one entry for each slot, and slots are below that number; the context is
// created in `init`, destroyed in `deinit` and used by one thread between.
@safe final class AIOEngine: IOEngine {
    static let batch = 1 << 16
    static let firstBatch = batch

    private let image: RawImage
    private let slots: Int
    private let context: io_context_t
    private let controls: UnsafeMutablePointer<iocb>
    /// What is to be submitted next.
    private let pending: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
    private var pendingCount = 0
    /// Operations that the kernel has.
    private var running = 0
    /// Results that the kernel gave, and how many of them were handed on.
    private let results: UnsafeMutablePointer<io_event>
    private var resultCount = 0
    private var resultIndex = 0
    private var done: CompletionFIFO

    private let waiter: EventWaiter
    private let completed: EventFD

    init(_ setup: IOEngineSetup) throws(BlockError) {
        image = setup.image
        slots = setup.slots
        done = CompletionFIFO(capacity: setup.slots)
        completed = try EventWaiter.event()
        waiter = try EventWaiter(setup, completed: completed)
        var context: io_context_t?
        let code = unsafe io_setup(Int32(clamping: setup.slots), &context)
        guard code == 0, let context = unsafe context else {
            throw BlockError("aio: \(SystemError("io_setup", errno: -code).reason)")
        }
        unsafe self.context = unsafe context
        unsafe controls = .allocate(capacity: setup.slots)
        unsafe pending = .allocate(capacity: setup.slots)
        unsafe results = .allocate(capacity: setup.slots)
    }

    deinit {
        unsafe _ = io_destroy(context)
        unsafe controls.deallocate()
        unsafe pending.deallocate()
        unsafe results.deallocate()
    }

    func begin() {}

    @inline(__always)
    func submit(_ operation: IOOperation, slot: UInt32) {
        let control = unsafe controls + Int(slot)
        let offset = Int64(truncatingIfNeeded: operation.offset)
        switch operation.kind {
        case .read where !operation.isCached:
            unsafe io_prep_preadv(
                control, image.fd, operation.parts, operation.partCount, offset)
        case .write where !operation.isCached:
            unsafe io_prep_pwritev(
                control, image.fd, operation.parts, operation.partCount, offset)
        case .stableWrite where !operation.isCached:
            unsafe io_prep_pwritev2(
                control, image.fd, operation.parts, operation.partCount, offset,
                CLINUX_RWF_DSYNC)
        case .sync: unsafe io_prep_fdsync(control, image.fd)
        default:
            done.append(slot: slot, result: SystemCalls.perform(operation, on: image))
            return
        }
        unsafe io_set_eventfd(control, completed.rawValue)
        unsafe pending[pendingCount] = unsafe control
        pendingCount += 1
    }

    @inline(__always)
    func nextDone() -> IOEvent? { done.next() }

    /// What waits for room is not submitted; what the kernel has, it finishes.
    func cancel() {
        for index in 0..<pendingCount {
            guard let control = unsafe pending[index] else { continue }
            let slot = UInt32(truncatingIfNeeded: unsafe control - controls)
            done.append(slot: slot, result: -Int64(ECANCELED))
        }
        pendingCount = 0
    }

    func wait(mayBlock: Bool) {
        submitPending()
        collect()
        if done.count > 0 || resultCount > 0 { return }
        waiter.wait(mayBlock: mayBlock)
        collect()
    }

    /// Hands pending operations to the kernel. One that it refuses gets its error as result.
    private func submitPending() {
        var index = 0
        while index < pendingCount {
            let count = unsafe io_submit(context, pendingCount - index, pending + index)
            if count > 0 {
                index += Int(count)
                running += Int(count)
            } else if count == -EAGAIN && running > 0 {
                break  // No room: the next turn tries again, after something has completed.
            } else if let control = unsafe pending[index] {
                let slot = UInt32(truncatingIfNeeded: unsafe control - controls)
                // EAGAIN makes the queue try the operation once more.
                done.append(slot: slot, result: Int64(min(count, -1)))
                index += 1
            }
        }
        for i in index..<pendingCount { unsafe pending[i - index] = unsafe pending[i] }
        pendingCount -= index
    }

    /// Takes over results from the kernel, without waiting.
    private func collect() {
        guard running > 0, resultCount == 0 else { return }
        var noTime = timespec()
        let count = unsafe io_getevents(context, 0, slots, results, &noTime)
        resultCount = max(Int(count), 0)
        resultIndex = 0
        running -= resultCount
    }

    @inline(__always)
    func nextEvent() -> IOEvent? {
        if resultIndex < resultCount {
            let event = unsafe results[resultIndex]
            resultIndex += 1
            if resultIndex == resultCount {
                resultIndex = 0
                resultCount = 0
            }
            let slot = UInt32(truncatingIfNeeded: unsafe event.obj - controls)
            // The kernel's signed result.
            let result = Int64(Int(bitPattern: unsafe event.res))
            return .completion(slot: slot, result: result)
        }
        return done.next() ?? waiter.next()
    }
}
