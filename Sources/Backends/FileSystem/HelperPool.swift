internal import CLinux
internal import Core

/// Threads that do what may take long, so that a queue's thread goes on with other requests.
///
/// Writes and look-ups are not among it. A write goes to the host's memory, which takes as long as to
/// hand it over, and its order and notes (TaskNote.swift: O_APPEND) are the queue's. What a look-up
/// or the making of a name counts for the driver is noted by queue as well, and both are done as a
/// user that the queue's thread stays (FileUser.swift). A disk that makes such requests wait is made
/// up for by several queues.
final class HelperPool: Sendable {
    /// A request that was taken from a queue.
    // SAFETY: for `@unchecked Sendable`: the chain is used by whoever has the job, one thread after
    // the other, which hand it on under a lock.
    struct Job: @unchecked Sendable {
        let chain: DescriptorChain
        /// Whether the request has been begun: a READ has what it needs of the chain already.
        let isBegun: Bool
        let finished: FinishedRequests
    }

    private let jobs = Jobs()
    private let threads: Lock<[Thread]>

    init(_ count: Int, _ fileSystem: FileSystem) throws(SystemError) {
        var threads: [Thread] = []
        do throws(SystemError) {
            for index in 0..<count {
                threads.append(
                    try Thread(name: "helper \(index)") { [jobs] in Self.run(jobs, fileSystem) })
            }
        } catch {
            Self.end(threads, jobs)
            throw error
        }
        self.threads = Lock(threads)
    }

    private static func run(_ jobs: Jobs, _ fileSystem: FileSystem) {
        let canWork = FSQueue.enterDescriptors(of: fileSystem)
        let worker = FSWorker(fileSystem, TaskNote(nil, queue: 0))
        while let job = jobs.next() {
            // The queue waits for an answer to each.
            job.finished.add(job.chain, canWork ? worker.finish(job) : worker.refuse(job))
        }
    }

    private static func end(_ threads: [Thread], _ jobs: Jobs) {
        for _ in threads { jobs.add(nil) }
        for thread in threads { thread.join() }
    }

    func add(_ job: Job) { jobs.add(job) }

    /// Ends the threads, once all is done.
    func stop() {
        threads.withLock { threads in
            Self.end(threads, jobs)
            threads = []
        }
    }
}

/// What is to be done, first come, first served.
private final class Jobs: Sendable {
    private let jobs = Lock<[HelperPool.Job?]>([])
    private let count = Semaphore()

    /// - Parameter job: `nil`: a thread is to end.
    func add(_ job: HelperPool.Job?) {
        jobs.withLock { $0.append(job) }
        count.signal()
    }

    /// Waits for the next.
    func next() -> HelperPool.Job? {
        count.wait()
        return jobs.withLock { $0.removeFirst() }
    }
}

/// What helpers have done of one queue's requests, for its thread to give back.
final class FinishedRequests: Sendable {
    // SAFETY: for `@unchecked Sendable`: as with `HelperPool.Job`.
    struct Request: @unchecked Sendable {
        let chain: DescriptorChain
        let written: UInt32
    }

    private let requests = Lock<[Request]>([])
    /// Wakes the queue's thread.
    private let kick: EventFD

    init(_ kick: EventFD) { self.kick = kick }

    func add(_ chain: DescriptorChain, _ written: UInt32) {
        let request = Request(chain: chain, written: written)
        requests.withLock { $0.append(request) }
        kick.signal()
    }

    func takeAll() -> [Request] {
        requests.withLock { requests in
            defer { requests = [] }
            return requests
        }
    }
}
