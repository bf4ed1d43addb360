internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

/// What one queue is doing, noted for the next process: a request that this one does not live to
/// answer is asked again, and must not be done twice.
///
/// Around a system call that changes the folder it is noted that it begins, and how it ended. Of one
/// that only began, the folder itself says whether it was done. Everything else may be done again,
/// but what the driver was to be told of it is taken back. Words are stored in order (`storeInOrder`)
/// wherever it matters to a process that dies between two of them.
// SAFETY: the memory is the ledger's, which this object holds, or belongs to this object. Only the
// queue's thread uses it.
@safe final class TaskNote {
    private let ledger: Ledger?
    private let slot: UnsafeMutablePointer<clinux_task>
    /// Whether the request may be one that an earlier process began.
    private var isFirst = true
    /// Whether the slot says what this process does.
    private var isBegun = false

    /// The time at which a change began, no later than what the file system will note.
    struct Time {
        let seconds: Int64
        let nanoseconds: UInt32

        static var now: Time {
            var time = timespec()
            // SAFETY: the result lives for the call. The coarse clock is the file systems'.
            unsafe clock_gettime(CLOCK_REALTIME_COARSE, &time)
            return Time(seconds: Int64(time.tv_sec), nanoseconds: UInt32(time.tv_nsec))
        }

        func isNotAfter(_ seconds: Int64, _ nanoseconds: UInt32) -> Bool {
            (self.seconds, self.nanoseconds) <= (seconds, nanoseconds)
        }
    }

    init(_ ledger: Ledger?, queue: Int) {
        self.ledger = ledger
        if let ledger {
            unsafe slot = unsafe ledger.task(queue)
        } else {
            unsafe slot = .allocate(capacity: 1)
            unsafe slot.initialize(to: clinux_task())
        }
    }

    deinit {
        if ledger == nil { unsafe slot.deallocate() }
    }

    /// A request has been taken.
    func begin(_ request: FUSERequest, _ tables: FileSystem) {
        defer { isFirst = false }
        isBegun = true
        let isRepeated =
            unsafe slot.pointee.unique == request.unique
            && slot.pointee.opcode == request.rawOpcode
        if isFirst, isRepeated, request.unique != 0 { return takeBack(tables) }
        // It is nobody's until it has its number again.
        unsafe slot.pointee.opcode = request.rawOpcode
        setStage(CLINUX_TASK_NONE)
        unsafe slot.pointee.result = 0
        unsafe slot.pointee.node = 0
        unsafe slot.pointee.handle = 0
        unsafe storeInOrder(request.unique, &slot.pointee.unique)
    }

    /// The driver has got its answer.
    func end() {
        if !isBegun { return }
        isBegun = false
        unsafe storeInOrder(0, &slot.pointee.unique)
    }

    /// What the driver was to be told of, it will be told of again.
    private func takeBack(_ tables: FileSystem) {
        let node = unsafe slot.pointee.node
        let handle = unsafe slot.pointee.handle
        unsafe storeInOrder(0, &slot.pointee.node)
        unsafe storeInOrder(0, &slot.pointee.handle)
        if node != 0 { tables.nodes.forget(node, 1) }
        if handle != 0 { tables.handles.remove(handle) }
    }

    /// A look-up of a node was counted, for the driver to be told.
    func counted(_ node: UInt64) { unsafe storeInOrder(node, &slot.pointee.node) }

    /// A file was opened, for the driver to be told.
    func opened(_ handle: UInt64) { unsafe storeInOrder(handle, &slot.pointee.handle) }

    private func setStage(_ stage: clinux_task_stage) {
        unsafe storeInOrder(stage.rawValue, &slot.pointee.stage)
    }

    private func isAt(_ stage: clinux_task_stage) -> Bool {
        unsafe slot.pointee.stage == stage.rawValue
    }

    /// Takes look-ups back, which must not be done twice.
    /// - Parameter entry: which of the request's it is, from 0.
    func forget(_ node: UInt64, _ count: UInt64, entry: UInt32, in nodes: NodeTable) {
        if unsafe Int64(entry) < slot.pointee.result { return }
        nodes.forget(node, count) { left in
            unsafe slot.pointee.before = left
            unsafe slot.pointee.entry = entry
            unsafe storeInOrder(node, &slot.pointee.forgotten)
        }
        unsafe storeInOrder(Int64(entry) + 1, &slot.pointee.result)
        unsafe storeInOrder(0, &slot.pointee.forgotten)
    }

    /// Makes a change that must not be made twice.
    /// - Parameters:
    ///   - before: looks up what `wasMade` has to know.
    ///   - wasMade: whether an earlier process made the change, which it began at that time: what it
    ///     resulted in, or `nil` if it did not.
    ///   - body: the change; returns -errno if it fails.
    /// - Returns: what the change resulted in, as `body` said.
    func change(
        before: () throws(FUSEError) -> UInt64 = { () throws(FUSEError) in 0 },
        wasMade: (Time, UInt64) -> Int64?, _ body: () -> Int64
    ) throws(FUSEError) -> Int64 {
        if isAt(CLINUX_TASK_DONE) { return unsafe slot.pointee.result }
        if isAt(CLINUX_TASK_BEGUN) {
            let began = unsafe Time(
                seconds: slot.pointee.seconds, nanoseconds: slot.pointee.nanoseconds)
            if let result = wasMade(began, unsafe slot.pointee.before) { return end(with: result) }
        } else {
            let now = Time.now
            unsafe slot.pointee.before = try before()
            unsafe slot.pointee.seconds = now.seconds
            unsafe slot.pointee.nanoseconds = now.nanoseconds
            setStage(CLINUX_TASK_BEGUN)
        }
        return end(with: body())
    }

    private func end(with result: Int64) -> Int64 {
        unsafe slot.pointee.result = result
        setStage(CLINUX_TASK_DONE)
        return result
    }
}
