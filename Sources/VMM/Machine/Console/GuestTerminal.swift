internal import CLinux
internal import Core
internal import Glibc

/// The near end of the pseudo terminal that a console's process has in place of the user's: so that
/// the VMM keeps the terminal's mode and finds the keys that are for it, whatever becomes of that
/// process. What the guest prints comes out here, and what the user types goes in.
final class GuestTerminal {
    private let fd: SharedFD
    private let loop: EventLoop
    private var outputWatch: EventRegistration?
    private var inputWatch: EventRegistration?

    /// The guest has printed something, for `read`.
    var onOutput: (() -> Void)?
    /// `send` may take more.
    var onRoom: (() -> Void)?

    init(_ near: SharedFD, on loop: EventLoop) {
        fd = near
        self.loop = loop
        _ = clinux_fcntl(fd.rawValue, F_SETFL, Int(O_NONBLOCK))
    }

    /// Whether `onOutput` is called. Output that is not asked for waits.
    var wantsOutput = false {
        didSet {
            guard wantsOutput != oldValue else { return }
            outputWatch = nil
            if !wantsOutput { return }
            outputWatch = loop.watch(fd.rawValue, for: .readable) { [weak self] happened in
                guard let self else { return }
                // Without a far end there is no more to come.
                if happened.contains(.readable) { onOutput?() } else { wantsOutput = false }
            }
        }
    }

    /// What the guest has printed, up to a chunk; waits for it if asked to.
    func read(waitingMilliseconds: Int32 = 0) -> [UInt8] {
        if waitingMilliseconds > 0 {
            _ = clinux_poll_two(fd.rawValue, Int16(POLLIN), -1, 0, waitingMilliseconds)
        }
        var bytes = [UInt8](repeating: 0, count: HostOutput.chunk)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe Glibc.read(fd.rawValue, &bytes, bytes.count)
        return Array(bytes.prefix(max(count, 0)))
    }

    /// Types what the user has typed.
    /// - Returns: how many bytes were taken; when it is fewer than there are, `onRoom` follows.
    func send(_ bytes: [UInt8]) -> Int {
        // SAFETY: the bytes live for the call.
        let count = unsafe bytes.withUnsafeBytes { bytes in
            unsafe Glibc.write(fd.rawValue, bytes.baseAddress, bytes.count)
        }
        if count < bytes.count, inputWatch == nil {
            inputWatch = loop.watch(fd.rawValue, for: .writable) { [weak self] _ in
                self?.inputWatch = nil
                self?.onRoom?()
            }
        }
        return max(count, 0)
    }

    func setSize(_ size: TerminalSize) { size.set(on: fd.rawValue) }

    func stop() {
        wantsOutput = false
        inputWatch = nil
    }
}
