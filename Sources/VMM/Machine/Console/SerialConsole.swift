internal import CLinux
internal import Core
internal import Devices
internal import Glibc

/// Where a serial port's bytes go to and come from.
package enum SerialBackend: Equatable, Sendable {
    /// Standard input and output.
    case terminal
    /// Output is dropped.
    case null
    case file(String)
    /// The machine has no serial port.
    case off
}

/// The host's side of a serial port. All of it runs on the control thread; `outputReady` and
/// `inputReady` may be called from any.
// SAFETY: everything mutable is used on the loop's thread only.
final class SerialConsole: @unchecked Sendable {
    /// What the user asked for at the terminal.
    enum Event {
        case leave
        /// The guest has printed its first line of user space.
        case firstUserLine
    }

    private static let log = Log("serial")
    /// A pipe takes this much without blocking once it is writable.
    private static let chunk = 512

    private let loop: EventLoop
    private let timeline: BootTimeline
    private let onEvent: (Event) -> Void
    private let output: SharedFD?
    private let input: Int32?
    private var terminal: Terminal?
    private var serial: Serial?

    private var isPumpScheduled = false
    private var pumpTimer: EventRegistration?
    private var outputWatch: EventRegistration?
    private var inputWatch: EventRegistration?
    private var unwritten: [UInt8] = []
    private var isOutputLost = false
    private var unread: [UInt8] = []
    private var isInputOver = false
    private var keys = EscapeKeys()
    private var finder = UserLineFinder()

    init(
        _ backend: SerialBackend, loop: EventLoop, timeline: BootTimeline,
        onEvent: @escaping (Event) -> Void
    ) throws(BootError) {
        self.loop = loop
        self.timeline = timeline
        self.onEvent = onEvent
        do {
            switch backend {
            case .terminal:
                output = try Self.standardOutput()
                input = STDIN_FILENO
            case .file(let path):
                let flags = O_WRONLY | O_CREAT | O_TRUNC | O_APPEND
                // SAFETY: the path lives for the call.
                output = SharedFD(
                    owning: try checking("open", unsafe clinux_open(path, flags, 0o644)))
                input = nil
            case .null, .off:
                output = nil
                input = nil
            }
        } catch {
            let target =
                switch backend {
                case .file(let path): "file '\(path)'"
                case .terminal, .null, .off: "standard output"
                }
            throw BootError(
                "the serial port's output, \(target), cannot be opened: \(error.reason)")
        }
    }

    /// Standard output, as a descriptor of our own. A terminal is opened again, so that it can be
    /// non-blocking for us alone: one that takes only a part would stop the whole machine.
    private static func standardOutput() throws(SystemError) -> SharedFD {
        if isatty(STDOUT_FILENO) == 1 {
            let flags = O_WRONLY | O_NOCTTY | O_NONBLOCK
            // SAFETY: the path lives for the call.
            let fd = unsafe clinux_open("/proc/self/fd/\(STDOUT_FILENO)", flags, 0)
            if fd >= 0 { return SharedFD(owning: fd) }
        }
        return SharedFD(
            owning: try checking("fcntl", clinux_fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)))
    }

    /// Connects the device and starts to read. The terminal becomes raw.
    func start(_ serial: Serial) {
        self.serial = serial
        guard let input else { return }
        terminal = Terminal(input)
        watchInput()
    }

    /// Writes what the guest has printed, and gives the terminal back.
    func stop() {
        inputWatch = nil
        outputWatch = nil
        pumpTimer = nil
        pump(isFinal: true)
        terminal = nil
    }

    /// The process is in the foreground again.
    func continued() { terminal?.makeRaw() }

    // MARK: Output

    /// The guest has sent something.
    var outputReady: @Sendable () -> Void {
        { [weak self] in
            guard let self else { return }
            timeline.mark(.firstSerialByte)
            loop.post { self.schedulePump() }
        }
    }

    /// A moment later there is more to write at once.
    private func schedulePump() {
        guard !isPumpScheduled, outputWatch == nil else { return }
        isPumpScheduled = true
        pumpTimer = loop.after(milliseconds: 1) { [weak self] in
            self?.isPumpScheduled = false
            self?.pump(isFinal: false)
        }
    }

    private func pump(isFinal: Bool) {
        guard let serial else { return }
        while true {
            if unwritten.isEmpty {
                unwritten = serial.takeOutput(maximum: Self.chunk)
                if unwritten.isEmpty { return }
                if !finder.isFound, finder.feed(unwritten) {
                    timeline.mark(.firstUserLine)
                    onEvent(.firstUserLine)
                }
            }
            guard let output else {
                unwritten = []
                continue
            }
            guard isWritable(output.rawValue) else {
                // A reader that has gone to sleep does not keep us from ending.
                if !isFinal { waitUntilWritable(output) }
                return
            }
            guard writeSome(output.rawValue) else { return }
        }
    }

    private func isWritable(_ fd: Int32) -> Bool {
        var entry = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        // SAFETY: the entry lives for the call.
        return unsafe poll(&entry, 1, 0) > 0
    }

    private func waitUntilWritable(_ output: SharedFD) {
        outputWatch = loop.watch(output.rawValue, for: .writable) { [weak self] _ in
            self?.outputWatch = nil
            self?.pump(isFinal: false)
        }
    }

    /// - Returns: whether there may be more to do.
    private func writeSome(_ fd: Int32) -> Bool {
        let count = unsafe unwritten.withUnsafeBytes { bytes in
            // SAFETY: the bytes live for the call.
            unsafe write(fd, bytes.baseAddress, bytes.count)
        }
        if count > 0 {
            unwritten.removeFirst(count)
            isOutputLost = false
            return true
        }
        if count < 0, errno == EINTR || errno == EAGAIN { return true }
        // Nobody is left to read it, or there is no room; the guest goes on.
        if !isOutputLost {
            Self.log(.warning, "output is lost: \(SystemError("write", errno: errno))")
        }
        isOutputLost = true
        unwritten = []
        return true
    }

    // MARK: Input

    var inputReady: @Sendable () -> Void {
        { [weak self] in
            guard let self else { return }
            loop.post { self.deliver() }
        }
    }

    private func watchInput() {
        guard let input, inputWatch == nil else { return }
        inputWatch = loop.watch(input, for: .readable) { [weak self] _ in self?.readInput(input) }
    }

    private func readInput(_ fd: Int32) {
        var bytes = [UInt8](repeating: 0, count: Self.chunk)
        // SAFETY: the buffer lives for the call.
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe read(fd, buffer.baseAddress, buffer.count)
        }
        guard count > 0 else {
            if count < 0, errno == EINTR || errno == EAGAIN { return }
            // The end of the input, or no terminal any more.
            isInputOver = true
            inputWatch = nil
            return
        }
        bytes.removeLast(bytes.count - count)
        if terminal != nil {
            let (output, commands) = keys.filter(bytes)
            for command in commands { obey(command) }
            bytes = output
        }
        unread += bytes
        deliver()
    }

    /// Gives the guest what it takes, and reads on when it has taken all.
    private func deliver() {
        guard let serial else { return }
        if !unread.isEmpty { unread.removeFirst(serial.receive(unread)) }
        if !unread.isEmpty {
            inputWatch = nil
        } else if !isInputOver {
            watchInput()
        }
    }

    private func obey(_ command: EscapeKeys.Command) {
        switch command {
        case .leave: onEvent(.leave)
        case .help: show(EscapeKeys.help)
        case .monitor: show("\nThere is no monitor yet.\n")
        }
    }

    private func show(_ text: String) {
        guard let output else { return }
        let bytes = Array(text.utf8)
        // SAFETY: the bytes live for the call.
        unsafe bytes.withUnsafeBytes { bytes in
            _ = unsafe write(output.rawValue, bytes.baseAddress, bytes.count)
        }
    }
}
