internal import CLinux
internal import Core
internal import Glibc

/// Serves one queue on its thread: takes requests from the ring, does them one after the other, and
/// gives them back. When nothing is to be done, the thread sleeps.
final class FSWorker {
    let fileSystem: FileSystem
    let request = FUSERequest()
    let reply: FUSEReply
    private(set) var chain = DescriptorChain(capacity: 8)
    let listing = FolderListing()
    let task: TaskNote
    private let queue: Virtqueue
    private var pacing = CallPacing()
    var user = FileUser()
    /// How many look-ups in a row have found files that were not known.
    var newFiles = 0
    /// Requests that wait for locks.
    private var parked: ParkedRequests

    /// What is to become of a request that has been done.
    enum Outcome {
        /// `reply` holds what follows the header.
        case reply
        /// So many bytes of data are in the chain already, behind the place of the header.
        case data(UInt32)
        /// The driver waits for nothing.
        case nothing
        /// The request waits for a lock.
        case later
    }

    /// How many requests are done before the stop signal is looked at.
    private static let batch = 64

    init(_ queue: Virtqueue, index: Int, _ fileSystem: FileSystem) {
        self.queue = queue
        task = TaskNote(fileSystem.ledger, queue: index)
        self.fileSystem = fileSystem
        reply = FUSEReply(users: fileSystem.options.users, groups: fileSystem.options.groups)
        parked = ParkedRequests(fileSystem.waits)
    }

    func run(kick: EventFD, stop: EventFD) {
        // Another process may have died before it could tell the driver.
        if !queue.setup.isFresh { queue.setup.call?.signal() }
        // Requests may have come before anybody listened.
        var mustLook = true
        var polling = IdlePolling(microseconds: fileSystem.options.pollMicroseconds)
        while true {
            let ready = clinux_poll_two(
                kick.rawValue, Int16(POLLIN), stop.rawValue, Int16(POLLIN),
                mustLook ? 0 : parked.timeoutMilliseconds)
            if ready & 2 != 0 { return giveUpParked(kick) }
            if ready & 1 != 0 { kick.drain() }
            if parked.isDue { tryParkedAgain(kick) }
            if !mustLook { polling.endSleep() }
            queue.disableNotifications()
            mustLook =
                serveBatch(kick) || queue.enableNotifications() || polling.find(in: queue)
        }
    }

    /// - Returns: whether there may be more.
    private func serveBatch(_ kick: EventFD) -> Bool {
        pacing.begin()
        defer { if pacing.takeOwed() { queue.setup.call?.signal() } }
        for _ in 0..<Self.batch {
            do throws(QueueError) {
                guard try queue.pop(into: chain) else { return false }
            } catch {
                fsLog.guest("queue stopped: \(error)")
                return false
            }
            if let written = serve() {
                give(written)
            } else {
                parked.add(chain, request.unique, kick)
                chain = DescriptorChain(capacity: 8)
            }
        }
        return true
    }

    /// Gives `chain` back.
    private func give(_ written: UInt32) {
        queue.push(chain, written: written)
        // The driver sees it, whether it is told or not.
        if pacing.end(queue.publish(), hasWaiting: queue.hasAvailable) {
            queue.setup.call?.signal()
        }
        task.end()
    }

    private func tryParkedAgain(_ kick: EventFD) {
        let own = chain
        defer { chain = own }
        for waiting in parked.takeAll() {
            chain = waiting.chain
            if let written = serve() {
                fileSystem.waits.remove(waiting.unique, kick)
                give(written)
            } else {
                parked.put(back: waiting)
            }
        }
        if pacing.takeOwed() { queue.setup.call?.signal() }
    }

    /// The queue stops. Its next thread finds what waits where requests in flight are noted, and
    /// without that there would be nobody to answer.
    private func giveUpParked(_ kick: EventFD) {
        let own = chain
        defer { chain = own }
        for waiting in parked.takeAll() {
            fileSystem.waits.remove(waiting.unique, kick)
            if queue.setup.inflight != nil { continue }
            chain = waiting.chain
            reply.clear()
            _ = request.take(chain)
            give(reply.write(to: chain, request, error: EAGAIN))
        }
        if pacing.takeOwed() { queue.setup.call?.signal() }
    }

    /// Does the request in `chain`.
    /// - Returns: how many bytes were written; `nil` if it is to be done again later.
    private func serve() -> UInt32? {
        reply.clear()
        guard request.take(chain) else { return reply.write(to: chain, request, error: EINVAL) }
        let opcode = FUSEOpcode(rawValue: request.rawOpcode)
        // What may wait can be done again, and others are done meanwhile.
        if opcode != .awaitLock { task.begin(request, fileSystem) }
        do throws(FUSEError) {
            guard let opcode else { throw .unknownRequest }
            if opcode.isChange, fileSystem.options.isReadOnly { throw .readOnly }
            if opcode.isSlow, pacing.takeOwed() { queue.setup.call?.signal() }
            settleUser(opcode)
            switch try perform(opcode) {
            case .reply: return reply.write(to: chain, request, error: 0)
            case .data(let count): return reply.writeHeader(to: chain, request, length: count)
            case .nothing: return 0
            case .later: return nil
            }
        } catch {
            return reply.write(to: chain, request, error: error.code)
        }
    }

    /// The file that the request is about.
    func node() throws(FUSEError) -> Node { try fileSystem.nodes.node(request.nodeID) }

    /// The folder that the request is about.
    func folder() throws(FUSEError) -> Node { try folder(request.nodeID) }

    func folder(_ id: UInt64) throws(FUSEError) -> Node {
        let node = try fileSystem.nodes.node(id)
        guard node.isFolder else { throw FUSEError(ENOTDIR) }
        return node
    }

    /// Makes sure that the driver has room for a reply that it has to remember.
    func needRoom(_ size: Int) throws(FUSEError) {
        guard chain.writableLength >= UInt64(FUSELimit.replyHeader + size) else { throw .invalid }
    }
}
