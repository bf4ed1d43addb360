internal import CLinux
internal import Glibc

/// Passes on what processes write to a pipe. It waits for nobody: what the other side does not take
/// is lost.
struct ErrorRelay {
    /// What the processes' messages come out of; does not wait either.
    let source: SharedFD
    let target: SharedFD

    /// The most bytes that are passed on at once, and that a pipe takes without waiting.
    private static let pieceSize = 4096

    /// Passes on a piece of what has come.
    /// - Returns: whether there was something.
    @discardableResult
    func passOn() -> Bool {
        var bytes = [UInt8](repeating: 0, count: Self.pieceSize)
        // SAFETY: the array has as many bytes and lives for the calls.
        let count = unsafe read(source.rawValue, &bytes, bytes.count)
        guard count > 0 else { return false }
        let sent = unsafe clinux_send_with_fds(target.rawValue, bytes, count, [], 0)
        // A terminal that has been stopped must hold up nobody.
        if sent == -Int(ENOTSOCK),
            clinux_poll_two(target.rawValue, Int16(POLLOUT), -1, 0, 0) == 1
        {
            _ = unsafe write(target.rawValue, bytes, count)
        }
        return true
    }

    /// Passes on all that has come. As much as a pipe holds: processes may still write.
    func passOnAll() {
        for _ in 0..<16 where passOn() {}
    }
}
