internal import Core

/// The channel for what a back end asks of its front end (vhost-user specification, "Back-end
/// message types"). The control thread tells it things without waiting; threads of queues ask, one
/// at a time, and wait for the answer.
///
/// The front end serves the channel also while it waits for an answer of ours, so a queue's thread
/// that waits here can be stopped: it gets its answer. One that gives none has broken the channel.
final class BackendChannel: SharedMemoryChannel {
    private static let patienceMilliseconds: UInt64 = 5000

    private let socket: UnixSocket
    /// How long the front end may take to make room for what it is told, in milliseconds.
    private let patience: UInt64
    /// Messages go out one after the other.
    private let sending = Lock(())
    /// What is asked, is answered before the next question. The right to read belongs to it.
    private let asking: Lock<Answers>
    /// Copied by those who ask, closed by any thread.
    private struct Answers: ~Copyable {
        let connection: Connection
        var isBroken = false
    }

    init(_ socket: UnixSocket, patience: UInt64 = 1000) {
        self.socket = socket
        self.patience = patience
        asking = Lock(
            Answers(connection: Connection(socket, nameOf: Connection.backendNames)))
    }

    /// Ends all waiting, now and later.
    func close() { socket.shutDown() }

    /// Tells the front end something that it need not answer.
    func tell(_ request: BackendRequest, _ payload: Payload) throws(SystemError) {
        let message = Message(request: request.rawValue, payload: payload.bytes)
        try sending.withLock { _ throws(SystemError) in
            try socket.send(message.bytes, timeoutMilliseconds: patience)
        }
    }

    // MARK: Shared memory

    func map(_ piece: SharedMemoryPiece, of fd: SharedFD) throws(SharedMemoryError) {
        try ask(.shmemMap, piece, [fd])
    }

    func unmap(_ piece: SharedMemoryPiece) throws(SharedMemoryError) {
        try ask(.shmemUnmap, piece, [])
    }

    private func ask(
        _ request: BackendRequest, _ piece: SharedMemoryPiece, _ fds: [SharedFD]
    ) throws(SharedMemoryError) {
        let payload = Payload.sharedMemoryMap(
            SharedMemoryMap(
                regionID: piece.region, fdOffset: piece.fileOffset, offset: piece.offset,
                size: piece.size, flags: piece.isWritable ? SharedMemoryMap.writable : 0))
        let message = Message(
            request: request.rawValue, flags: Header.version | Header.needReplyFlag,
            payload: payload.bytes, fds: fds)
        let result = asking.withLock { answers -> UInt64? in
            guard !answers.isBroken else { return nil }
            do {
                try sending.withLock { _ throws(SystemError) in
                    try socket.send(
                        message.bytes, fds: fds, timeoutMilliseconds: Self.patienceMilliseconds)
                }
                return try Self.awaitAnswer(request, answers.connection)
            } catch {
                // What comes later could be the answer to something else.
                answers.isBroken = true
                BackendServer.log.guest("\(request.rule.name): \(error)")
                return nil
            }
        }
        guard let result else { throw .gone }
        if result != 0 { throw .refused }
    }

    private static func awaitAnswer(
        _ request: BackendRequest, _ connection: Connection
    ) throws -> UInt64 {
        let deadline = Clock.monotonic() &+ patienceMilliseconds &* 1_000_000
        while true {
            if let message = try connection.receive() {
                let payload = try message.replyPayload(
                    of: request.rule, request: request.rawValue, shape: .u64)
                guard case .u64(let result) = payload else { continue }
                return result
            }
            let now = Clock.monotonic()
            guard now < deadline else { throw ConnectionError.timedOut(request.rule.name) }
            _ = connection.socket.waitReadable(
                timeoutMilliseconds: Int32(clamping: (deadline - now) / 1_000_000 + 1))
        }
    }
}
