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

/// The host's side of the serial port, and of a console (`--console stdio`) that shares the user's
/// terminal with it: the terminal is the serial port's until the console says something, which it
/// does when the kernel has a driver for it; from then on it is the console's.
///
/// All of it runs on the control thread; `outputReady` and `inputReady` may be called from any.
// SAFETY: everything mutable is used on the loop's thread only.
final class HostConsole: @unchecked Sendable {
    /// What the user asked for at the terminal.
    enum Event {
        case leave
        /// The guest has printed its first line of user space.
        case firstUserLine
    }

    private let loop: EventLoop
    private let timeline: BootTimeline
    private let onEvent: (Event) -> Void
    /// Standard output or the serial port's file.
    private let serialOutput: HostOutput?
    /// Standard output.
    private let userOutput: HostOutput?
    private let guestTerminal: GuestTerminal?
    private var terminal: Terminal?
    private var serial: Serial?

    /// Whether the terminal is the console's.
    private var isConsoles: Bool
    private var isPumpScheduled = false
    private var pumpTimer: EventRegistration?
    private var inputWatch: EventRegistration?
    private var unread: [UInt8] = []
    private var isInputOver = false
    private var keys = EscapeKeys()
    private var finder = UserLineFinder()

    /// - Parameter guestTerminal: the near end of the console's.
    init(
        _ backend: SerialBackend, guestTerminal: SharedFD?, loop: EventLoop,
        timeline: BootTimeline, onEvent: @escaping (Event) -> Void
    ) throws(BootError) {
        self.loop = loop
        self.timeline = timeline
        self.onEvent = onEvent
        self.guestTerminal = guestTerminal.map { GuestTerminal($0, on: loop) }
        isConsoles = backend != .terminal && guestTerminal != nil
        let hasUser = backend == .terminal || guestTerminal != nil
        do {
            userOutput =
                hasUser ? HostOutput(try HostOutput.standardOutput(), on: loop) : nil
        } catch {
            throw BootError("standard output cannot be used: \(error.reason)")
        }
        switch backend {
        case .terminal: serialOutput = userOutput
        case .file(let path): serialOutput = HostOutput(try Self.open(path), on: loop)
        case .null, .off: serialOutput = nil
        }
    }

    private static func open(_ path: String) throws(BootError) -> SharedFD {
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_APPEND
        do {
            // SAFETY: the path lives for the call.
            return SharedFD(owning: try checking("open", unsafe clinux_open(path, flags, 0o644)))
        } catch {
            throw BootError(
                "the serial port's output, file '\(path)', cannot be opened: \(error.reason)")
        }
    }

    /// Connects the serial port, if there is one, and starts to read. The terminal becomes raw.
    func start(_ serial: Serial?) {
        self.serial = serial
        serialOutput?.onRoom = { [weak self] in self?.pump() }
        userOutput?.onRoom = { [weak self] in self?.pump() }
        guestTerminal?.onOutput = { [weak self] in self?.pumpConsole() }
        guestTerminal?.onRoom = { [weak self] in self?.deliver() }
        guestTerminal?.wantsOutput = true
        guard userOutput != nil else { return }
        terminal = Terminal(STDIN_FILENO)
        watchInput()
    }

    /// Writes what the guest has printed, and gives the terminal back.
    func stop() {
        inputWatch = nil
        pumpTimer = nil
        pumpSerial()
        drainConsole()
        guestTerminal?.stop()
        for output in [serialOutput, userOutput] { output?.stop() }
        terminal = nil
    }

    /// The guest begins again, with its serial port.
    func reset() {
        guard let userOutput, userOutput === serialOutput else { return }
        drainConsole()
        isConsoles = false
    }

    /// The process is in the foreground again.
    func continued() { terminal?.makeRaw() }

    /// The user's terminal may have another size.
    func resized() {
        guard let size = TerminalSize(of: STDIN_FILENO) else { return }
        guestTerminal?.setSize(size)
    }

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
        guard !isPumpScheduled else { return }
        isPumpScheduled = true
        pumpTimer = loop.after(milliseconds: 1) { [weak self] in
            self?.isPumpScheduled = false
            self?.pumpSerial()
        }
    }

    private func pump() {
        pumpSerial()
        pumpConsole()
    }

    private func pumpSerial() {
        guard let serial else { return }
        let isShown = serialOutput != nil && !(isConsoles && serialOutput === userOutput)
        while !isShown || serialOutput?.hasRoom == true {
            let bytes = serial.takeOutput(maximum: HostOutput.chunk)
            if bytes.isEmpty { return }
            if !isConsoles { look(at: bytes) }
            if isShown { serialOutput?.write(bytes) }
        }
    }

    private func pumpConsole() {
        guard let guestTerminal, let userOutput else { return }
        while userOutput.hasRoom {
            guestTerminal.wantsOutput = true
            guard showConsole(guestTerminal.read()) else { return }
        }
        guestTerminal.wantsOutput = false
    }

    /// The last of the console's output, in a process that is about to end, may be on its way.
    private func drainConsole() {
        guard let guestTerminal, let userOutput else { return }
        for _ in 0..<Self.lastChunks {
            guard userOutput.hasRoom, showConsole(guestTerminal.read(waitingMilliseconds: 10))
            else { return }
        }
    }

    /// More than a pseudo terminal holds.
    private static let lastChunks = 128

    /// - Returns: whether there may be more.
    private func showConsole(_ bytes: [UInt8]) -> Bool {
        if bytes.isEmpty { return false }
        if !isConsoles {
            isConsoles = true
            deliver()
        }
        look(at: bytes)
        userOutput?.write(bytes)
        return true
    }

    private func look(at bytes: [UInt8]) {
        guard !finder.isFound, finder.feed(bytes) else { return }
        timeline.mark(.firstUserLine)
        onEvent(.firstUserLine)
    }

    // MARK: Input

    var inputReady: @Sendable () -> Void {
        { [weak self] in
            guard let self else { return }
            loop.post { self.deliver() }
        }
    }

    private func watchInput() {
        guard inputWatch == nil else { return }
        inputWatch = loop.watch(STDIN_FILENO, for: .readable) { [weak self] _ in self?.readInput() }
    }

    private func readInput() {
        var bytes = [UInt8](repeating: 0, count: HostOutput.chunk)
        // SAFETY: the buffer lives for the call.
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe read(STDIN_FILENO, buffer.baseAddress, buffer.count)
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
        if !unread.isEmpty {
            let count =
                isConsoles ? guestTerminal?.send(unread) : serial?.receive(unread)
            unread.removeFirst(count ?? unread.count)
        }
        if !unread.isEmpty {
            inputWatch = nil
        } else if !isInputOver, userOutput != nil {
            watchInput()
        }
    }

    private func obey(_ command: EscapeKeys.Command) {
        switch command {
        case .leave: onEvent(.leave)
        case .help: userOutput?.write(Array(EscapeKeys.help(ends: "the machine").utf8))
        }
    }
}
