internal import CLinux
internal import Glibc

/// Ordinary signals as something to read (signalfd(2)), non-blocking.
package final class SignalFD: Sendable {
    package let fd: SharedFD

    /// Blocks `signals` in the calling thread and reports them here. Threads inherit the mask, so
    /// do this before any is started: a signal goes to any thread that does not block it.
    package init(_ signals: [Int32]) throws(SystemError) {
        // SAFETY: the array is only read, during the call.
        let raw = unsafe clinux_signalfd(signals, signals.count)
        fd = SharedFD(owning: try checking("signalfd", raw))
    }

    /// The number of the next signal that has arrived, or `nil`.
    package func next() -> Int32? {
        let signal = clinux_read_signal(fd.rawValue)
        return signal > 0 ? signal : nil
    }

    /// Lets writes to a closed pipe or socket fail with `EPIPE`, for the whole process.
    package static func ignoreBrokenPipes() {
        _ = signal(SIGPIPE, SIG_IGN)
    }
}
