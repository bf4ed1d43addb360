internal import Core
internal import Glibc

/// Operations that helper threads do for one queue, which gets the results back in any order.
final class OperationPool: Sendable {
    // SAFETY: an operation's buffers are valid, and nobody else uses them, until its result has
    // been taken over; so it may move from thread to thread.
    @safe private struct Job: BitwiseCopyable, @unchecked Sendable {
        var operation: IOOperation
        var slot: UInt32
    }

    /// What waits for a thread, in order, and what is done.
    // SAFETY: `jobs` has `capacity` entries; `head` and `count` stay below and at most that.
    @safe private struct State: ~Copyable {
        private let jobs: UnsafeMutablePointer<Job>
        private let capacity: Int
        private var head = 0
        private(set) var count = 0
        var done: CompletionFIFO
        /// Threads that have nothing to do.
        var idleCount = 0
        var isEnding = false

        init(capacity: Int) {
            self.capacity = max(capacity, 1)
            unsafe jobs = .allocate(capacity: self.capacity)
            done = CompletionFIFO(capacity: capacity)
        }

        deinit { unsafe jobs.deallocate() }

        mutating func append(_ job: Job) {
            precondition(count < capacity, "a slot has two operations")
            var index = head &+ count
            if index >= capacity { index &-= capacity }
            unsafe jobs[index] = job
            count &+= 1
        }

        mutating func next() -> Job? {
            if count == 0 { return nil }
            let job = unsafe jobs[head]
            head = head &+ 1 == capacity ? 0 : head &+ 1
            count &-= 1
            return job
        }
    }

    private let image: RawImage
    /// Signalled when there are results.
    private let completed: EventFD
    private let state: Lock<State>
    /// Counts the waiting operations, and at the end the threads that are to end.
    private let work = Semaphore()

    /// - Parameter slots: operations that can be under way at once.
    init(image: RawImage, slots: Int, completed: EventFD) {
        self.image = image
        self.completed = completed
        state = Lock(State(capacity: slots))
    }

    /// Adds an operation.
    /// - Returns: whether there are fewer idle threads than operations that wait for one.
    func add(_ operation: IOOperation, slot: UInt32) -> Bool {
        let job = Job(operation: operation, slot: slot)
        let isShort = state.withLock { state in
            state.append(job)
            return state.count > state.idleCount
        }
        work.signal()
        return isShort
    }

    /// Takes away what no thread has begun yet.
    func cancel() {
        state.withLock { state in
            while let job = state.next() {
                state.done.append(slot: job.slot, result: -Int64(ECANCELED))
            }
        }
        completed.signal()
    }

    /// Moves results to `done`, which has room for all of them.
    func collect(into done: inout CompletionFIFO) {
        while case .completion(let slot, let result)? = state.withLock({ $0.done.next() }) {
            done.append(slot: slot, result: result)
        }
    }

    /// Makes all calls of `serve` return. Nothing may be waiting.
    func end(threadCount: Int) {
        state.withLock { $0.isEnding = true }
        for _ in 0..<threadCount { work.signal() }
    }

    /// Does operations until the pool ends; what a helper thread runs.
    func serve() {
        while true {
            state.withLock { $0.idleCount += 1 }
            work.wait()
            let job = state.withLock { state in
                state.idleCount -= 1
                return state.isEnding ? nil : state.next()
            }
            // None: the pool ends, or the operation was cancelled, after which none follow.
            guard let job else { return }
            perform(job)
        }
    }

    /// Does one waiting operation on the caller's thread.
    func performNext() {
        work.wait()
        if let job = state.withLock({ $0.next() }) { perform(job) }
    }

    private func perform(_ job: Job) {
        let result = SystemCalls.perform(job.operation, on: image)
        let isFirst = state.withLock { state in
            state.done.append(slot: job.slot, result: result)
            return state.done.count == 1
        }
        if isFirst { completed.signal() }
    }
}
