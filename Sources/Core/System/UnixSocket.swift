internal import CLinux
internal import Glibc

/// What came with one `receive`: bytes, and the descriptors that were attached to them. Dropping
/// it closes the descriptors.
package struct ReceivedBytes: Sendable {
    package var bytes: [UInt8]
    package var fds: [SharedFD]
    /// The kernel dropped descriptors because there were too many.
    package var hasLostDescriptors: Bool
}

/// A connected stream socket of the Unix domain that also carries descriptors. Non-blocking: waits
/// have a limit, so a silent peer cannot hold a thread for ever.
package final class UnixSocket: Sendable {
    /// The most descriptors in one message that can be sent or received.
    package static let maximumDescriptors = 64

    package let fd: SharedFD

    /// Takes a connected socket, for example one that a parent process passed down.
    package init(adopting fd: SharedFD) throws(SystemError) {
        _ = try checking("fcntl", clinux_set_nonblocking(fd.rawValue))
        self.fd = fd
    }

    private init(owning rawValue: Int32) { fd = SharedFD(owning: rawValue) }

    /// Connects to the socket that listens at `path`.
    package convenience init(connectingTo path: String) throws(SystemError) {
        let raw = try checking("socket", clinux_unix_socket())
        self.init(owning: raw)
        // Non-blocking, this fails at once while the listener's backlog is full.
        _ = try checking("connect", unsafe clinux_unix_connect(raw, path))
    }

    /// Two sockets that are connected to each other.
    package static func pair() throws(SystemError) -> (UnixSocket, UnixSocket) {
        var fds: [Int32] = [-1, -1]
        // SAFETY: the array has the two elements that the call fills.
        _ = try checking("socketpair", unsafe clinux_unix_pair(&fds))
        return (UnixSocket(owning: fds[0]), UnixSocket(owning: fds[1]))
    }

    /// Waits until there is something to read (or the peer has gone).
    /// - Returns: false after `timeoutMilliseconds`.
    package func waitReadable(timeoutMilliseconds: Int32) -> Bool {
        clinux_poll_two(fd.rawValue, Int16(POLLIN), -1, 0, timeoutMilliseconds) != 0
    }

    /// Sends all of `bytes`, with `fds` attached to the first of them.
    /// - Parameter timeoutMilliseconds: how long to wait in all for a peer that does not read.
    /// - Throws: `ETIMEDOUT` after that time; the stream is then of no more use.
    package func send(
        _ bytes: [UInt8], fds: [SharedFD] = [], timeoutMilliseconds: UInt64 = 5000
    ) throws(SystemError) {
        let deadline = Clock.monotonic() &+ timeoutMilliseconds &* 1_000_000
        let numbers = fds.map { $0.rawValue }
        var done = 0
        while done < bytes.count {
            // SAFETY: the buffers are used only during the call; `done` lies inside `bytes`.
            let sent = unsafe bytes.withUnsafeBytes { buffer in
                unsafe clinux_send_with_fds(
                    fd.rawValue, buffer.baseAddress.unsafelyUnwrapped + done, buffer.count - done,
                    numbers, done == 0 ? numbers.count : 0)
            }
            if sent == -Int(EAGAIN) {
                let now = Clock.monotonic()
                guard now < deadline else { throw SystemError("sendmsg", errno: ETIMEDOUT) }
                let left = Int32(clamping: (deadline - now) / 1_000_000 + 1)
                _ = clinux_poll_two(fd.rawValue, Int16(POLLOUT), -1, 0, left)
                continue
            }
            done += try checking("sendmsg", sent)
        }
        withExtendedLifetime(fds) {}
    }

    /// Ends the connection for both sides, whoever else holds the descriptor.
    package func shutDown() { _ = shutdown(fd.rawValue, Int32(SHUT_RDWR)) }

    /// Tells the peer, who can still send, that nothing more will come.
    package func finishSending() { _ = shutdown(fd.rawValue, Int32(SHUT_WR)) }

    /// Receives up to `count` bytes (at least one) and what is attached to them, without waiting.
    /// - Returns: no bytes at the end of the stream; `nil` if there is nothing yet.
    package func receive(upTo count: Int) throws(SystemError) -> ReceivedBytes? {
        precondition(count > 0, "nothing asked for")
        var bytes = [UInt8](repeating: 0, count: count)
        var numbers = [Int32](repeating: -1, count: Self.maximumDescriptors)
        var carried = numbers.count
        var truncated: Int32 = 0
        // SAFETY: the buffers are used only during the call and as long as is said.
        let received = unsafe clinux_receive_with_fds(
            fd.rawValue, &bytes, count, &numbers, &carried, &truncated, Int32(MSG_DONTWAIT))
        if received == -Int(EAGAIN) { return nil }
        let length = try checking("recvmsg", received)
        bytes.removeLast(count - length)
        return ReceivedBytes(
            bytes: bytes, fds: numbers.prefix(carried).map { SharedFD(owning: $0) },
            hasLostDescriptors: truncated != 0)
    }
}

/// A Unix socket that takes connections; non-blocking.
package final class UnixListener: Sendable {
    package let fd: SharedFD
    /// Where it was bound by us, if the socket file is to be removed in the end.
    private let path: String?

    /// Takes a listening socket, for example one that a parent process passed down.
    package init(adopting fd: SharedFD) throws(SystemError) {
        _ = try checking("fcntl", clinux_set_nonblocking(fd.rawValue))
        self.fd = fd
        path = nil
    }

    /// Listens at `path`. A socket file that nobody answers on is replaced.
    /// - Parameter isPassedOn: the descriptor goes to others, so the socket file stays.
    /// - Throws: `EADDRINUSE` if somebody answers, or if there is something other than a socket.
    package init(path: String, isPassedOn: Bool = false) throws(SystemError) {
        let fd = SharedFD(owning: try checking("socket", clinux_unix_socket()))
        try Self.bind(fd, at: path)
        self.fd = fd
        self.path = isPassedOn ? nil : path
        _ = try checking("listen", clinux_listen(fd.rawValue, 8))
    }

    /// Gives a socket of any type a path. A socket file that nobody answers on is replaced.
    package static func bind(_ socket: SharedFD, at path: String) throws(SystemError) {
        var result = unsafe clinux_unix_bind(socket.rawValue, path)
        if result == -EADDRINUSE, isStale(path, like: socket) {
            // SAFETY: the string is only read during the call.
            _ = unsafe unlink(path)
            result = unsafe clinux_unix_bind(socket.rawValue, path)
        }
        _ = try checking("bind", result)
    }

    /// What people are told when nobody can listen at a path: one sentence, wherever it happens.
    package static func failure(at path: String, _ error: SystemError) -> String {
        let reason =
            error.code == EADDRINUSE
            ? "another program uses it, or it is no socket" : error.reason
        return "cannot listen at \(path): \(reason)"
    }

    deinit {
        // SAFETY: the string is only read during the call.
        if let path { _ = unsafe unlink(path) }
    }

    /// The next waiting connection, or `nil`.
    package func accept() throws(SystemError) -> UnixSocket? {
        let raw = clinux_accept(fd.rawValue)
        if raw == -EAGAIN || raw == -ECONNABORTED { return nil }
        return try UnixSocket(adopting: SharedFD(owning: try checking("accept", raw)))
    }

    /// Whether `path` is a socket of the same type on which nobody listens.
    private static func isStale(_ path: String, like socket: SharedFD) -> Bool {
        var status = stat()
        // SAFETY: both arguments live for the call.
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else {
            return false
        }
        // One of another type is refused with EPROTOTYPE.
        return unsafe clinux_unix_connect(socket.rawValue, path) == -ECONNREFUSED
    }
}

/// A socket of unknown kind that somebody passed down: programs disagree about what `--fd` means.
package enum InheritedSocket {
    case listening(UnixListener)
    case connected(UnixSocket)

    /// Finds out what `fd` is.
    /// - Throws: also if it is not a stream socket of the Unix domain, or neither listens nor is
    ///   connected.
    package init(_ fd: SharedFD) throws(SystemError) {
        guard try Self.option(SO_DOMAIN, of: fd) == AF_UNIX else {
            throw SystemError("getsockopt", errno: EAFNOSUPPORT)
        }
        guard try Self.option(SO_TYPE, of: fd) == Int32(SOCK_STREAM.rawValue) else {
            throw SystemError("getsockopt", errno: EPROTOTYPE)
        }
        let listens = try checking("getsockopt", clinux_is_listening(fd.rawValue)) != 0
        if !listens { try Self.checkPeer(of: fd) }
        self =
            listens
            ? .listening(try UnixListener(adopting: fd)) : .connected(try UnixSocket(adopting: fd))
    }

    private static func option(_ name: Int32, of fd: SharedFD) throws(SystemError) -> Int32 {
        var value: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: both results live for the call, and `size` is the value's.
        _ = try retrying("getsockopt") {
            unsafe getsockopt(fd.rawValue, SOL_SOCKET, name, &value, &size)
        }
        return value
    }

    private static func checkPeer(of fd: SharedFD) throws(SystemError) {
        var address = sockaddr()
        var size = socklen_t(MemoryLayout<sockaddr>.size)
        // SAFETY: both results live for the call, which fills no more than `size` bytes.
        _ = try retrying("getpeername") { unsafe getpeername(fd.rawValue, &address, &size) }
    }
}

extension SystemError {
    /// Whether the error means that the other end of a socket has gone.
    package var isConnectionReset: Bool { code == ECONNRESET || code == EPIPE }
}

extension UnixSocket {
    /// Waits until there is something to read here or on `other`.
    /// - Returns: whether it is on `other`.
    package func waitReadable(orElse other: UnixSocket?, timeoutMilliseconds: UInt32) -> Bool {
        let ready = clinux_poll_two(
            fd.rawValue, Int16(POLLIN), other?.fd.rawValue ?? -1, Int16(POLLIN),
            Int32(clamping: timeoutMilliseconds))
        return ready > 0 && ready & 2 != 0
    }
}
