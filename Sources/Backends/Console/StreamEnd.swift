internal import CLinux
internal import Core
internal import Glibc

/// A stream that is there all the time: standard input and output, a pseudo terminal, a file.
final class StreamEnd: HostEnd {
    /// What a terminal or a pipe that is ready takes without waiting. The descriptors are shared with
    /// others, so they must not be made non-blocking.
    private static let portion = 256
    private static let inputSize = 4096

    private let input: SharedFD?
    private let output: SharedFD
    private let isFile: Bool
    private let loop: EventLoop
    /// Open for as long as this object lives.
    private let kept: SharedFD?
    private var inputWatch: EventRegistration?
    private var outputWatch: EventRegistration?
    private var hasEnded = false
    /// The user's terminal, which this process has made raw.
    private var terminal: Terminal?
    private var keys = EscapeKeys()
    private var signals: EventRegistration?

    let isConnected = true
    weak var events: (any HostEvents)?

    /// - Parameters:
    ///   - input: `nil` where there is no input.
    ///   - kept: stays open as well.
    init(
        input: SharedFD?, output: SharedFD, isFile: Bool, keeping kept: SharedFD? = nil,
        on loop: EventLoop
    ) {
        self.kept = kept
        self.input = input
        self.output = output
        self.isFile = isFile
        self.loop = loop
    }

    deinit {
        // While the descriptor is open.
        terminal = nil
    }

    var wantsInput = false {
        didSet {
            guard wantsInput != oldValue else { return }
            watchInput()
        }
    }

    /// Follows the size of the terminal that this is. If this process has the user's terminal to
    /// itself, it makes it raw as long as this object lives and finds the keys that are for it; what
    /// the VMM's processes have is a pseudo terminal and nobody's foreground.
    func takeTerminal() throws(SystemError) {
        if let input, tcgetpgrp(input.rawValue) == getpgrp() {
            terminal = Terminal(input.rawValue)
            watchInput()
        }
        signals = try loop.watchSignals([SIGWINCH, SIGCONT]) { [unowned self] signal in
            if signal == SIGCONT { terminal?.makeRaw() }
            events?.connectionChanged()
        }
    }

    var size: TerminalSize? { TerminalSize(of: output.rawValue) }

    func write(_ bytes: ArraySlice<UInt8>) -> Int {
        if hasEnded { return bytes.count }
        var done = 0
        while done < bytes.count {
            guard isFile || isReady else {
                waitForRoom()
                break
            }
            let part = bytes.dropFirst(done).prefix(isFile ? bytes.count : Self.portion)
            // SAFETY: the buffer is used only during the call.
            let count = unsafe part.withUnsafeBytes { buffer in
                unsafe Glibc.write(output.rawValue, buffer.baseAddress, buffer.count)
            }
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN {
                    waitForRoom()
                    break
                }
                consoleLog.guest("output is lost: \(SystemError("write", errno: errno))")
                // A full disk may get room again; a pipe without readers is over.
                if errno == EPIPE { hasEnded = true }
                return bytes.count
            }
            done += count
        }
        return done
    }

    func reset() {}

    private var isReady: Bool {
        clinux_poll_two(output.rawValue, Int16(POLLOUT), -1, 0, 0) != 0
    }

    private func waitForRoom() {
        guard outputWatch == nil else { return }
        outputWatch = loop.watch(output.rawValue, for: .writable) { [unowned self] _ in
            outputWatch = nil
            events?.canWrite()
        }
    }

    private func watchInput() {
        // The keys work without a guest as well.
        guard let input, wantsInput || terminal != nil, !hasEnded else {
            inputWatch = nil
            return
        }
        inputWatch = loop.watch(input.rawValue, for: .readable) { [unowned self] _ in
            read(input)
        }
    }

    private func read(_ input: SharedFD) {
        var bytes = [UInt8](repeating: 0, count: Self.inputSize)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe Glibc.read(input.rawValue, &bytes, bytes.count)
        if count > 0 {
            bytes.removeLast(bytes.count - count)
            if terminal != nil { bytes = withoutKeys(bytes) }
            if wantsInput, !bytes.isEmpty { events?.received(bytes) }
        } else if count == 0 || (errno != EINTR && errno != EAGAIN) {
            // The input's end is not the output's.
            inputWatch = nil
        }
    }

    private func withoutKeys(_ bytes: [UInt8]) -> [UInt8] {
        let (output, commands) = keys.filter(bytes)
        for command in commands {
            switch command {
            case .leave: loop.quit()
            case .help: _ = write(Array(EscapeKeys.help(ends: "apus-console").utf8)[...])
            }
        }
        return output
    }
}
