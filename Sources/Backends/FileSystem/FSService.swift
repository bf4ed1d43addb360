internal import CLinux
internal import Core
internal import Glibc

/// Serves one queue on its thread: takes requests from the ring, has them done one after the other,
/// and gives them back. When nothing is to be done, the thread sleeps.
final class FSService {
    private let fileSystem: FileSystem
    private let queue: Virtqueue
    private let worker: FSWorker
    private let kick: EventFD
    private var pacing = CallPacing()
    /// Requests that wait for locks, or for the next start.
    private var parked: ParkedRequests
    private let helpers: HelperPool?
    /// What helpers have done, and how many requests they have in all.
    private let finished: FinishedRequests
    private var handedOver = 0

    /// How many requests are done before the stop signal is looked at.
    private static let batch = 64

    init(
        _ queue: Virtqueue, index: Int, _ fileSystem: FileSystem, _ helpers: HelperPool?,
        kick: EventFD
    ) {
        self.fileSystem = fileSystem
        self.queue = queue
        self.kick = kick
        self.helpers = helpers
        finished = FinishedRequests(kick)
        worker = FSWorker(
            fileSystem, TaskNote(fileSystem.ledger, queue: index), leavesSlow: helpers != nil)
        parked = ParkedRequests(fileSystem.waits)
    }

    func run(until stop: StopSignal) {
        worker.stop = stop
        // Another process may have died before it could tell the driver.
        if !queue.setup.isFresh {
            queue.setup.call?.signal()
            worker.restoreMappings()
        }
        // Requests may have come before anybody listened.
        var mustLook = true
        var polling = IdlePolling(microseconds: fileSystem.options.pollMicroseconds)
        while true {
            // As long as there are requests, the kernel need not be asked for them.
            if !mustLook || handedOver > 0 {
                let ready = clinux_poll_two(
                    kick.rawValue, Int16(POLLIN), stop.event.rawValue, Int16(POLLIN),
                    mustLook ? 0 : parked.timeoutMilliseconds)
                if ready & 1 != 0 { kick.drain() }
            }
            if stop.isOn { return end() }
            if handedOver > 0 { giveFinished() }
            if parked.isDue { tryParkedAgain() }
            if !mustLook { polling.endSleep() }
            queue.disableNotifications()
            mustLook = serveBatch() || queue.enableNotifications() || polling.find(in: queue)
        }
    }

    /// - Returns: whether there may be more.
    private func serveBatch() -> Bool {
        pacing.begin()
        defer { callIfOwed() }
        for _ in 0..<Self.batch {
            do throws(QueueError) {
                guard try queue.pop(into: worker.chain) else { return false }
            } catch {
                fsLog.guest("queue stopped: \(error)")
                return false
            }
            switch worker.serve(beforeWaiting: callIfOwed) {
            case .written(let count): give(count)
            case .parked: parked.add(worker.takeChain(), worker.request.unique, kick)
            case .left(let isBegun): handOver(isBegun: isBegun)
            }
        }
        return true
    }

    private func callIfOwed() {
        if pacing.takeOwed() { queue.setup.call?.signal() }
    }

    /// Gives the worker's chain back.
    private func give(_ written: UInt32) {
        give(worker.chain, written)
        worker.task.end()
    }

    private func give(_ chain: DescriptorChain, _ written: UInt32) {
        queue.push(chain, written: written)
        // The driver sees it, whether it is told or not.
        if pacing.end(queue.publish(), hasWaiting: queue.hasAvailable) {
            queue.setup.call?.signal()
        }
    }

    // MARK: What helpers do

    private func handOver(isBegun: Bool) {
        handedOver += 1
        helpers?.add(
            HelperPool.Job(
                chain: worker.takeChain(), isBegun: isBegun, finished: finished))
    }

    private func giveFinished() {
        for request in finished.takeAll() {
            handedOver -= 1
            give(request.chain, request.written)
        }
        callIfOwed()
    }

    // MARK: What waits for locks

    private func tryParkedAgain() {
        for waiting in parked.takeAll() {
            worker.chain = waiting.chain
            if case .written(let count) = worker.serve(beforeWaiting: callIfOwed) {
                fileSystem.waits.remove(waiting.unique, kick)
                give(count)
            } else {
                parked.put(back: waiting)
                _ = worker.takeChain()
            }
        }
        callIfOwed()
    }

    // MARK: The end

    /// The queue stops. All that helpers have is done first.
    private func end() {
        while handedOver > 0 {
            // The front end has the event as well, and may empty it.
            _ = clinux_poll_two(kick.rawValue, Int16(POLLIN), -1, 0, 10)
            kick.drain()
            giveFinished()
        }
        giveUpParked()
    }

    /// The queue's next thread finds what waits where requests in flight are noted, and without
    /// that there would be nobody to answer.
    private func giveUpParked() {
        for waiting in parked.takeAll() {
            fileSystem.waits.remove(waiting.unique, kick)
            if queue.setup.inflight != nil { continue }
            worker.chain = waiting.chain
            _ = worker.request.take(waiting.chain)
            give(worker.refuse(EAGAIN))
        }
        callIfOwed()
    }
}
