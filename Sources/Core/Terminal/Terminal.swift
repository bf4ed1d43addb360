internal import Glibc

/// The terminal of this process in raw mode, for as long as this object lives: keys go to the
/// guest as they are, Ctrl-C included. Output processing stays on, so that messages of our own look
/// right.
package final class Terminal {
    private let fd: Int32
    private var original = termios()

    /// - Returns: `nil` if `fd` is no terminal.
    package init?(_ fd: Int32) {
        self.fd = fd
        // SAFETY: `original` lives for the call.
        guard isatty(fd) == 1, unsafe tcgetattr(fd, &original) == 0 else { return nil }
        makeRaw()
    }

    deinit { restore() }

    /// Also needed when the process comes back to the foreground.
    package func makeRaw() {
        var raw = original
        // SAFETY: `raw` lives for the calls.
        unsafe cfmakeraw(&raw)
        raw.c_oflag |= tcflag_t(OPOST) | original.c_oflag
        unsafe _ = tcsetattr(fd, TCSANOW, &raw)
    }

    private func restore() {
        // Whoever has the foreground now has a mode of its own, and setting ours would stop us.
        let foreground = tcgetpgrp(fd)
        guard foreground < 0 || foreground == getpgrp() else { return }
        // SAFETY: `original` lives for the call.
        unsafe _ = tcsetattr(fd, TCSANOW, &original)
    }
}
