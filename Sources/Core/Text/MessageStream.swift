internal import CLinux
internal import Glibc

/// Lines to a descriptor that may be a pipe which nobody empties, or a terminal that has been
/// stopped. Whoever writes does not wait: lines that are not taken are lost, and counted. Only when
/// another process fills the last of the room between the look at it and the write, that one waits.
final class MessageStream: Sendable {
    /// What a pipe with room takes at once, without other writers' lines in between (PIPE_BUF).
    static let lineLimit = 4096

    private let fd: Int32
    /// How many lines have been lost since the last that was not.
    private let lost = Lock(0)

    /// - Parameter fd: stays open.
    init(_ fd: Int32) { self.fd = fd }

    /// - Parameters:
    ///   - line: ends with a line feed; what is beyond the limit is cut off.
    ///   - notice: makes the line that says how many were lost, before the first that is not.
    func write(_ line: String, notice: (Int) -> String) {
        lost.withLock { lost in
            if lost > 0, send(notice(lost)) { lost = 0 }
            if lost > 0 || !send(line) { lost += 1 }
        }
    }

    private func send(_ line: String) -> Bool {
        guard clinux_poll_two(fd, Int16(POLLOUT), -1, 0, 0) == 1 else { return false }
        var line = line
        if line.utf8.count > Self.lineLimit {
            line = String(decoding: line.utf8.prefix(Self.lineLimit - 8), as: UTF8.self) + "...\n"
        }
        return line.withUTF8 { bytes in
            // SAFETY: the bytes live for the call. One call per line, so that lines of several
            // threads and processes do not mix.
            unsafe Glibc.write(fd, bytes.baseAddress, bytes.count) >= 0
        }
    }
}
