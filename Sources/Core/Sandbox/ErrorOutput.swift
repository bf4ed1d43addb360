internal import CLinux
internal import Glibc

/// Where processes that must not read from standard error write their messages to. It may well be
/// a terminal, open for both, and whoever takes over a process could read the user's keys there.
struct ErrorOutput {
    /// What the processes' messages come out of, and where they go; `nil` if they go there by
    /// themselves.
    private let relay: (source: SharedFD, target: SharedFD)?

    /// The most bytes that are passed on at once.
    private static let pieceSize = 4096

    /// Makes this process's descriptor 2, which others inherit, one for writing only.
    init() throws(SystemError) {
        let flags = try checking("fcntl", clinux_fcntl(STDERR_FILENO, F_GETFL, 0))
        relay = flags & O_ACCMODE == O_WRONLY ? nil : try Self.replace(flags)
    }

    private static func replace(
        _ flags: Int32
    ) throws(SystemError) -> (source: SharedFD, target: SharedFD)? {
        // A file opened anew would have a position of its own, and sockets cannot be opened at all.
        if Self.isDevice(STDERR_FILENO) {
            // SAFETY: the path lives for the call.
            let raw = unsafe clinux_open("/proc/self/fd/2", O_WRONLY | O_NOCTTY, 0)
            if raw >= 0 {
                try replaceStandardError(by: SharedFD(owning: raw))
                return nil
            }
        }
        let target = SharedFD(
            owning: try checking("fcntl", clinux_fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)))
        let (source, sink) = try pipe()
        try replaceStandardError(by: sink)
        return (source, target)
    }

    private static func isDevice(_ fd: Int32) -> Bool {
        var status = stat()
        // SAFETY: the result lives for the call.
        return unsafe fstat(fd, &status) == 0 && status.st_mode & S_IFMT == S_IFCHR
    }

    private static func replaceStandardError(by fd: SharedFD) throws(SystemError) {
        _ = try checking("dup3", clinux_replace_fd(fd.rawValue, STDERR_FILENO))
        _ = try checking("fcntl", clinux_fcntl(STDERR_FILENO, F_SETFD, 0))
    }

    /// Neither end waits: messages that nobody takes are lost.
    private static func pipe() throws(SystemError) -> (source: SharedFD, sink: SharedFD) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for both descriptors.
        _ = try checking("pipe2", unsafe clinux_pipe(&ends))
        return (SharedFD(owning: ends[0]), SharedFD(owning: ends[1]))
    }

    /// What this process must keep open for it.
    var descriptors: [SharedFD] { relay.map { [$0.source, $0.target] } ?? [] }

    /// Waits until there is something to read from `socket`, and passes messages on meanwhile.
    func passOn(untilReadable socket: UnixSocket) {
        guard let relay else {
            _ = socket.waitReadable(timeoutMilliseconds: -1)
            return
        }
        while true {
            let ready = clinux_poll_two(
                socket.fd.rawValue, Int16(POLLIN), relay.source.rawValue, Int16(POLLIN), -1)
            if ready < 0 || ready & 2 != 0 { passOn() }
            if ready < 0 || ready & 1 != 0 { return }
        }
    }

    /// Passes on what has come.
    func passOn() {
        guard let relay else { return }
        var bytes = [UInt8](repeating: 0, count: Self.pieceSize)
        // SAFETY: the array has as many bytes and lives for both calls.
        let count = unsafe read(relay.source.rawValue, &bytes, bytes.count)
        // A terminal that has been stopped, or a peer that does not read, must hold up nobody.
        guard count > 0, clinux_poll_two(relay.target.rawValue, Int16(POLLOUT), -1, 0, 0) == 1
        else { return }
        // SAFETY: as above.
        _ = unsafe write(relay.target.rawValue, bytes, count)
    }
}
