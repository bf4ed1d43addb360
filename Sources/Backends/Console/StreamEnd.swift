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

    var wantsInput = false {
        didSet {
            guard wantsInput != oldValue else { return }
            watchInput()
        }
    }

    var size: ConsoleSize? {
        var size = winsize()
        // SAFETY: the request fills the structure, which lives for the call.
        let code = unsafe withUnsafeMutablePointer(to: &size) { pointer in
            clinux_ioctl(
                output.rawValue, UInt(TIOCGWINSZ), UInt(bitPattern: UnsafeRawPointer(pointer)))
        }
        guard code == 0, size.ws_col > 0, size.ws_row > 0 else { return nil }
        return ConsoleSize(columns: size.ws_col, rows: size.ws_row)
    }

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
                Log("console").guest("output is lost: \(SystemError("write", errno: errno))")
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
        guard let input, wantsInput, !hasEnded else {
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
            events?.received(bytes)
        } else if count == 0 || (errno != EINTR && errno != EAGAIN) {
            // The input's end is not the output's.
            inputWatch = nil
        }
    }
}
