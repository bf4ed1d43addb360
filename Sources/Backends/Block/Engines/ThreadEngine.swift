internal import Core

/// Does I/O with ordinary system calls, which every host allows. Operations that may have to wait
/// for a device go to helper threads, if there are to be any; the others are done at once, in the
/// queue's own thread, which is the best there is for images in memory.
final class ThreadEngine: IOEngine {
    static let batch = 16
    static let firstBatch = 2

    private let image: RawImage
    /// Operations are done when they are submitted, without anybody doing them.
    private let isNull: Bool
    private let waiter: EventWaiter
    private var done: CompletionFIFO
    private let pool: OperationPool
    private let helperLimit: Int
    private var helpers: [Thread] = []

    init(_ setup: IOEngineSetup, isNull: Bool = false) throws(BlockError) {
        image = setup.image
        self.isNull = isNull
        helperLimit = setup.helpers
        done = CompletionFIFO(capacity: setup.slots)
        let completed = try EventWaiter.event()
        waiter = try EventWaiter(setup, completed: completed)
        pool = OperationPool(image: image, slots: setup.slots, completed: completed)
    }

    deinit {
        pool.end(threadCount: helpers.count)
        for helper in helpers { helper.join() }
    }

    func begin() {}

    func submit(_ operation: IOOperation, slot: UInt32) {
        if let result = performAtOnce(operation) {
            done.append(slot: slot, result: result)
        } else if pool.add(operation, slot: slot), helpers.count < helperLimit {
            startHelper()
        }
    }

    @inline(__always)
    func nextDone() -> IOEvent? { done.next() }

    func cancel() { pool.cancel() }

    /// The result of an operation that need not wait.
    private func performAtOnce(_ operation: IOOperation) -> Int64? {
        if isNull { return unsafe operation.parts == nil ? 0 : Int64(clamping: operation.length) }
        if helperLimit == 0 { return SystemCalls.perform(operation, on: image) }
        // What the page cache holds is there already.
        guard operation.kind == .read, !image.isDirect || operation.isCached else { return nil }
        let result = SystemCalls.perform(operation, on: image, mayWait: false)
        return result < 0 ? nil : result
    }

    private func startHelper() {
        do throws(SystemError) {
            helpers.append(try Thread(name: "queue helper") { [pool] in pool.serve() })
        } catch {
            blockLog.guest("a helper thread cannot be started: \(error.reason)")
            // Without any, nobody else would do what was added.
            if helpers.isEmpty { pool.performNext() }
        }
    }

    func wait(mayBlock: Bool) {
        pool.collect(into: &done)
        if done.count > 0 { return }
        waiter.wait(mayBlock: mayBlock)
        pool.collect(into: &done)
    }

    @inline(__always)
    func nextEvent() -> IOEvent? { done.next() ?? waiter.next() }
}
