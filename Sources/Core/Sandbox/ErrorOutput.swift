internal import CLinux
internal import Glibc

/// Where processes that must not read from standard error write their messages to. It may well be
/// a terminal, open for both, and whoever takes over a process could read the user's keys there.
struct ErrorOutput {
    /// `nil` if the messages go where they should by themselves.
    private let relay: ErrorRelay?

    /// Makes this process's descriptor 2, which others inherit, one for writing only.
    init() throws(SystemError) {
        let flags = try checking("fcntl", clinux_fcntl(STDERR_FILENO, F_GETFL, 0))
        relay = flags & O_ACCMODE == O_WRONLY ? nil : try Self.replace(flags)
    }

    private static func replace(_ flags: Int32) throws(SystemError) -> ErrorRelay? {
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
        return ErrorRelay(source: source, target: target)
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
            if ready < 0 || ready & 2 != 0 { relay.passOn() }
            if ready < 0 || ready & 1 != 0 { return }
        }
    }

    /// Passes on all that has come.
    func passOnAll() { relay?.passOnAll() }
}
