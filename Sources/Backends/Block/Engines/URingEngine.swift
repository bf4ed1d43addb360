internal import CLinux
internal import CURing
internal import Core
internal import Glibc

/// Does I/O through an io_uring. One system call per turn hands over all new operations and waits
/// for completions, kicks and the stop signal alike: the latter two are polled by the ring itself.
///
/// The kick eventfd is watched by a multishot poll, which reports each signal without the counter
/// ever being read.
// SAFETY: the ring is created in `init`, destroyed in `deinit` and used by one thread between.
@safe final class URingEngine: IOEngine {
    static let batch = 1 << 16
    static let firstBatch = batch

    private let setup: IOEngineSetup
    private let ring: UnsafeMutablePointer<io_uring>
    /// Whether files are named by their place in the ring's own table, which is cheaper.
    private let hasFileTable: Bool
    private var done: CompletionFIFO
    /// Taken from the ring ahead of time, see `makeRoom`.
    private var hasKick = false
    private var hasStop = false
    /// The poll of the kick eventfd has ended.
    private var mustArmKick = false

    /// IOSQE_FIXED_FILE, which is a macro of an enum.
    private static let fixedFileFlag: UInt8 = 1 << 0
    /// Operations that are handed over at once: each turn uses other entries of the ring, so all of
    /// its memory stays in use.
    private static let maximumEntries = 64
    /// How often a full ring is handed over, with a millisecond between, before it is worth a word.
    private static let patience = 1000
    private static let kickTag = UInt64.max
    private static let stopTag = UInt64.max - 1

    init(_ setup: IOEngineSetup) throws(BlockError) {
        self.setup = setup
        done = CompletionFIFO(capacity: setup.slots)
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        unsafe ring.initialize(to: io_uring())
        let code = unsafe Self.create(ring, slots: setup.slots)
        guard code == 0 else {
            unsafe ring.deallocate()
            throw BlockError("io_uring: \(SystemError("io_uring_setup", errno: -code).reason)")
        }
        let files = [setup.image.fd, setup.image.cachedFD]
        // SAFETY: the kernel copies the descriptors.
        hasFileTable = unsafe io_uring_register_files(ring, files, UInt32(files.count)) == 0
        unsafe self.ring = unsafe ring
    }

    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
    }

    /// Makes a disabled ring with the cheapest way of running completions that the kernel knows.
    private static func create(_ ring: UnsafeMutablePointer<io_uring>, slots: Int) -> Int32 {
        let common = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE
        let best = UInt32(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
        let entries = min(slots + 2, maximumEntries)
        var parameters = io_uring_params()
        // All slots can complete at once, and kicks come at any time.
        parameters.cq_entries = UInt32(2 * max(slots, entries))
        var code: Int32 = -EINVAL
        for extra in [best, UInt32(IORING_SETUP_COOP_TASKRUN), 0] where code == -EINVAL {
            parameters.flags = UInt32(common) | extra
            code = unsafe io_uring_queue_init_params(UInt32(entries), ring, &parameters)
        }
        return code
    }

    func begin() {
        let code = unsafe clinux_io_uring_enable(ring.pointee.ring_fd)
        if code != 0 { end("io_uring_register", -code) }
        _ = unsafe io_uring_register_ring_fd(ring)  // only makes calls cheaper
        armKick()
        let sqe = unsafe nextEntry()
        unsafe io_uring_prep_poll_add(sqe, setup.stop.event.rawValue, UInt32(POLLIN))
        unsafe io_uring_sqe_set_data64(sqe, Self.stopTag)
    }

    /// Whether all that is needed works here: a host may forbid io_uring altogether, or an old
    /// kernel may lack parts of it.
    func check() throws(BlockError) {
        begin()
        setup.kick.signal()
        setup.stop.send()
        wait(mayBlock: true)
        var entry: UnsafeMutablePointer<io_uring_cqe>?
        // SAFETY: a completion entry is valid until it is marked as seen.
        while unsafe io_uring_peek_cqe(ring, &entry) == 0, let entry = unsafe entry {
            let result = unsafe entry.pointee.res
            let isMultishot = unsafe entry.pointee.flags & UInt32(IORING_CQE_F_MORE) != 0
            let isKick = unsafe entry.pointee.user_data == Self.kickTag
            guard result > 0, isMultishot || !isKick else {
                throw BlockError("io_uring: the kernel cannot watch eventfds as needed")
            }
            unsafe io_uring_cqe_seen(ring, entry)
        }
    }

    private func armKick() {
        let sqe = unsafe nextEntry()
        mustArmKick = false
        unsafe io_uring_prep_poll_multishot(sqe, setup.kick.rawValue, UInt32(POLLIN))
        unsafe io_uring_sqe_set_data64(sqe, Self.kickTag)
    }

    /// An empty submission entry.
    @inline(__always)
    private func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
        return unsafe makeRoom()
    }

    /// Hands over what is in the ring, which is full, and returns an empty entry.
    @inline(never)
    private func makeRoom() -> UnsafeMutablePointer<io_uring_sqe> {
        var attempts = 0
        while true {
            enter(completions: 0)
            if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
            // The kernel takes none while it is short of memory, or has no room for completions.
            while let event = takeEvent() { keep(event) }
            usleep(1000)
            attempts &+= 1
            if attempts == Self.patience {
                blockLog(
                    .warning,
                    "the host's kernel has taken no requests for a second: it may be short"
                        + " of memory; the guest's requests wait")
            }
        }
    }

    /// Keeps an event for `nextEvent`.
    private func keep(_ event: IOEvent) {
        switch event {
        case .kick: hasKick = true
        case .stop: hasStop = true
        case .completion(let slot, let result): done.append(slot: slot, result: result)
        }
    }

    @inline(__always)
    func submit(_ operation: IOOperation, slot: UInt32) {
        if operation.kind == .discard {  // There is no such operation before Linux 6.12.
            done.append(slot: slot, result: SystemCalls.perform(operation, on: setup.image))
            return
        }
        let sqe = unsafe nextEntry()
        let fd = fileNumber(isCached: operation.isCached)
        let count = UInt32(bitPattern: operation.partCount)
        switch operation.kind {
        case .read:
            unsafe io_uring_prep_readv(sqe, fd, operation.parts, count, operation.offset)
        case .write:
            unsafe io_uring_prep_writev(sqe, fd, operation.parts, count, operation.offset)
        case .stableWrite:
            unsafe io_uring_prep_writev2(
                sqe, fd, operation.parts, count, operation.offset, CLINUX_RWF_DSYNC)
        case .sync:
            unsafe io_uring_prep_fsync(sqe, fd, UInt32(IORING_FSYNC_DATASYNC))
        case .allocate:
            // Inside the image, so they fit.
            unsafe io_uring_prep_fallocate(
                sqe, fd, operation.mode, Int(truncatingIfNeeded: operation.offset),
                Int(truncatingIfNeeded: operation.length))
        case .discard: break
        }
        if hasFileTable { unsafe sqe.pointee.flags |= Self.fixedFileFlag }
        unsafe io_uring_sqe_set_data64(sqe, UInt64(slot))
    }

    @inline(__always)
    func nextDone() -> IOEvent? { done.next() }

    func cancel() {
        let sqe = unsafe nextEntry()
        // Kernels before 5.19 refuse it; then everything is waited for.
        unsafe io_uring_prep_cancel64(
            sqe, 0, Int32(IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL))
        // The polls end as well, which nobody needs any more.
        unsafe io_uring_sqe_set_data64(sqe, Self.stopTag)
    }

    @inline(__always)
    private func fileNumber(isCached: Bool) -> Int32 {
        if hasFileTable { return isCached ? 1 : 0 }
        return isCached ? setup.image.cachedFD : setup.image.fd
    }

    func wait(mayBlock: Bool) {
        let isReady = unsafe io_uring_cq_ready(ring) > 0 || done.count > 0
        if unsafe io_uring_sq_ready(ring) == 0 && isReady { return }
        enter(completions: isReady || !mayBlock ? 0 : 1)
    }

    private func enter(completions: UInt32) {
        let code = unsafe io_uring_submit_and_wait(ring, completions)
        switch -code {
        case ...0, EINTR, EBUSY: break
        // The kernel is short of memory for a moment: other requests must complete first.
        case EAGAIN, ENOMEM: usleep(1000)
        default: end("io_uring_enter", -code)
        }
    }

    /// The ring is of no use any more, and what is in flight is not known. Another process does it
    /// again.
    private func end(_ call: StaticString, _ code: Int32) -> Never {
        blockLog(.error, "io_uring does not work any more: \(SystemError(call, errno: code))")
        // Others run, so nothing of theirs may be torn down.
        _exit(1)
    }

    @inline(__always)
    func nextEvent() -> IOEvent? {
        if let event = done.next() { return event }
        if hasStop {
            hasStop = false
            return .stop
        }
        guard let event = hasKick ? .kick : takeEvent() else { return nil }
        if case .kick = event {
            hasKick = false
            if mustArmKick { armKick() }
        }
        return event
    }

    /// Takes the next completion from the ring.
    @inline(__always)
    private func takeEvent() -> IOEvent? {
        var entry: UnsafeMutablePointer<io_uring_cqe>?
        // SAFETY: a completion entry is valid until it is marked as seen.
        guard unsafe io_uring_peek_cqe(ring, &entry) == 0, let entry = unsafe entry else {
            return nil
        }
        let tag = unsafe entry.pointee.user_data
        let result = unsafe entry.pointee.res
        let flags = unsafe entry.pointee.flags
        unsafe io_uring_cqe_seen(ring, entry)
        if tag == Self.kickTag {
            if flags & UInt32(IORING_CQE_F_MORE) == 0 { mustArmKick = true }
            return .kick
        }
        if tag == Self.stopTag { return .stop }
        return .completion(slot: UInt32(truncatingIfNeeded: tag), result: Int64(result))
    }
}
