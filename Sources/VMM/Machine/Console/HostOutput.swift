internal import CLinux
internal import Core
internal import Glibc

/// Where output of the guest goes on the host. It never waits for whoever reads.
final class HostOutput {
    private static let log = Log("console")
    /// A pipe takes this much without blocking once it is writable.
    static let chunk = 512

    private let fd: SharedFD
    private let loop: EventLoop
    private var watch: EventRegistration?
    private var unwritten: [UInt8] = []
    private var isLost = false

    /// There may be room again.
    var onRoom: (() -> Void)?

    init(_ fd: SharedFD, on loop: EventLoop) {
        self.fd = fd
        self.loop = loop
    }

    /// Standard output, as a descriptor of our own. A terminal is opened again, so that it can be
    /// non-blocking for us alone: one that takes only a part would stop the whole machine.
    static func standardOutput() throws(SystemError) -> SharedFD {
        if isatty(STDOUT_FILENO) == 1 {
            let flags = O_WRONLY | O_NOCTTY | O_NONBLOCK
            // SAFETY: the path lives for the call.
            let fd = unsafe clinux_open("/proc/self/fd/\(STDOUT_FILENO)", flags, 0)
            if fd >= 0 { return SharedFD(owning: fd) }
        }
        return SharedFD(
            owning: try checking("fcntl", clinux_fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)))
    }

    /// Whether a chunk can be given to `write`. If not, `onRoom` follows.
    var hasRoom: Bool {
        while clinux_poll_two(fd.rawValue, Int16(POLLOUT), -1, 0, 0) > 0 {
            if unwritten.isEmpty { return true }
            writeSome()
        }
        waitForRoom()
        return false
    }

    /// Writes at most a chunk, for which there is room.
    func write(_ bytes: [UInt8]) {
        unwritten += bytes
        writeSome()
        if !unwritten.isEmpty { waitForRoom() }
    }

    func stop() { watch = nil }

    private func waitForRoom() {
        guard watch == nil else { return }
        watch = loop.watch(fd.rawValue, for: .writable) { [weak self] _ in
            guard let self else { return }
            watch = nil
            if hasRoom { onRoom?() }
        }
    }

    private func writeSome() {
        let count = unsafe unwritten.withUnsafeBytes { bytes in
            // SAFETY: the bytes live for the call.
            unsafe Glibc.write(fd.rawValue, bytes.baseAddress, bytes.count)
        }
        if count > 0 {
            unwritten.removeFirst(count)
            isLost = false
            return
        }
        if count < 0, errno == EINTR || errno == EAGAIN { return }
        // Nobody is left to read it, or there is no room; the guest goes on.
        if !isLost { Self.log(.warning, "output is lost: \(SystemError("write", errno: errno))") }
        isLost = true
        unwritten = []
    }
}
