internal import Core
internal import Glibc

/// Does requests, one after the other, on one thread.
final class FSWorker {
    let fileSystem: FileSystem
    let request = FUSERequest()
    let reply: FUSEReply
    /// The request.
    var chain = DescriptorChain(capacity: 8)
    let listing = FolderListing()
    let task: TaskNote
    var user = FileUser()
    /// How many look-ups in a row have found files that were not known.
    var newFiles = 0
    /// Whether what takes long is left to somebody else.
    let leavesSlow: Bool
    /// Ends what takes many steps before all are done.
    var stop: StopSignal?
    /// Whether somebody else has begun what is being done.
    private(set) var isBegun = false

    /// What is to become of a request that has been done.
    enum Outcome {
        /// `reply` holds what follows the header.
        case reply
        /// So many bytes of data are in the chain already, behind the place of the header.
        case data(UInt32)
        /// The driver waits for nothing.
        case nothing
        /// The request waits for a lock, or the queue is to stop in the midst of it.
        case later
        /// It would take long.
        case left
    }

    /// What is to become of a request's chain.
    enum Result {
        /// It is given back, with so many bytes.
        case written(UInt32)
        /// The request waits for a lock, and is to be done again.
        case parked
        /// It is left to somebody else. It may have been begun.
        case left(isBegun: Bool)
    }

    init(_ fileSystem: FileSystem, _ task: TaskNote, leavesSlow: Bool = false) {
        self.fileSystem = fileSystem
        self.task = task
        self.leavesSlow = leavesSlow
        reply = FUSEReply(users: fileSystem.options.users, groups: fileSystem.options.groups)
    }

    /// Gives up the chain, for another one.
    func takeChain() -> DescriptorChain {
        defer { chain = DescriptorChain(capacity: 8) }
        return chain
    }

    /// Does the request in `chain`.
    /// - Parameter beforeWaiting: is called before something that may take long.
    func serve(beforeWaiting: () -> Void) -> Result {
        reply.clear()
        guard request.take(chain), chain.isWhole else {
            return .written(refuse(chain.isWhole ? EINVAL : EFAULT))
        }
        guard let opcode = FUSEOpcode(rawValue: request.rawOpcode) else {
            return .written(refuse(ENOSYS))
        }
        if opcode.isSlow {
            if leavesSlow { return .left(isBegun: false) }
            beforeWaiting()
        }
        // What may wait can be done again, and others are done meanwhile.
        if opcode != .awaitLock { task.begin(request, fileSystem) }
        return serve(opcode)
    }

    private func serve(_ opcode: FUSEOpcode) -> Result {
        do throws(FUSEError) {
            if opcode.isChange {
                if fileSystem.options.isReadOnly { throw .readOnly }
                fileSystem.watch?.change(request.nodeID)
            }
            settleUser(opcode)
            reply.mappedDevice =
                fileSystem.has(.perFileMapping) ? fileSystem.localDevice : UInt64.max
            switch try perform(opcode) {
            case .reply: return .written(reply.write(to: chain, request, error: 0))
            case .data(let count):
                return .written(reply.writeHeader(to: chain, request, length: count))
            case .nothing: return .written(0)
            case .later: return .parked
            case .left: return .left(isBegun: true)
            }
        } catch {
            return .written(refuse(error.code))
        }
    }

    /// Does what somebody else has left.
    /// - Returns: how many bytes were written.
    func finish(_ job: HelperPool.Job) -> UInt32 {
        chain = job.chain
        isBegun = job.isBegun
        defer { isBegun = false }
        reply.clear()
        // The driver may write another request there meanwhile.
        guard request.take(chain), let opcode = FUSEOpcode(rawValue: request.rawOpcode),
            isBegun ? opcode == .read : opcode.isSlow,
            case .written(let count) = serve(opcode)
        else { return refuse(EINVAL) }
        return count
    }

    /// Answers what somebody else has left, and cannot be done.
    func refuse(_ job: HelperPool.Job) -> UInt32 {
        chain = job.chain
        reply.clear()
        _ = request.take(chain)
        return refuse(EIO)
    }

    /// Answers with an error.
    /// - Returns: how many bytes were written.
    func refuse(_ code: Int32) -> UInt32 { reply.write(to: chain, request, error: code) }

    /// The file that the request is about.
    func node() throws(FUSEError) -> Node { try fileSystem.nodes.node(request.nodeID) }

    /// The folder that the request is about.
    func folder() throws(FUSEError) -> Node { try folder(request.nodeID) }

    func folder(_ id: UInt64) throws(FUSEError) -> Node {
        let node = try fileSystem.nodes.node(id)
        guard node.isFolder else { throw FUSEError(ENOTDIR) }
        fileSystem.watch?.watch(id, node, isKnown: fileSystem.nodes.isKnown)
        return node
    }

    /// Makes sure that the driver has room for a reply that it has to remember.
    func needRoom(_ size: Int) throws(FUSEError) {
        guard chain.writableLength >= UInt64(FUSELimit.replyHeader + size) else { throw .invalid }
    }
}
