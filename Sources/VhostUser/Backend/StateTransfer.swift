internal import CLinux
internal import Core
internal import Glibc

/// Moves a device's state through a descriptor that the front end has given (vhost-user
/// specification, "Migrating backend state"), as fast as the other side takes or brings it.
final class StateTransfer {
    enum Outcome {
        case underWay, done, failed
    }

    private static let portion = 64 << 10

    /// `nil` once the transfer is over, which the other side sees as the end of the file.
    private var fd: SharedFD?
    private let isSaving: Bool
    private var bytes: [UInt8]
    /// How much of `bytes` has been written.
    private var written = 0
    private var watch: EventRegistration?
    /// Takes what has been read.
    private let load: ([UInt8]) -> Bool
    private(set) var outcome = Outcome.underWay

    /// Begins to write `bytes`.
    init(saving bytes: [UInt8], to fd: SharedFD, on loop: EventLoop) throws(SystemError) {
        isSaving = true
        self.bytes = bytes
        load = { _ in false }
        try begin(fd, .writable, loop)
    }

    /// Begins to read.
    /// - Parameter load: called with all there was; whether it can be used.
    init(
        loadingFrom fd: SharedFD, on loop: EventLoop, load: @escaping ([UInt8]) -> Bool
    ) throws(SystemError) {
        isSaving = false
        bytes = []
        self.load = load
        try begin(fd, .readable, loop)
    }

    private func begin(
        _ fd: SharedFD, _ events: IOEvents, _ loop: EventLoop
    ) throws(SystemError) {
        _ = try checking("fcntl", clinux_set_nonblocking(fd.rawValue))
        self.fd = fd
        watch = loop.watch(fd.rawValue, for: events) { [unowned self] _ in step() }
    }

    /// The front end says that its side is done: what it has written can be read to the end now.
    func finish() -> Bool {
        if isSaving {
            step()
        } else {
            var before = -1
            while outcome == .underWay, bytes.count != before {
                before = bytes.count
                step()
            }
        }
        if outcome == .underWay { end(.failed) }
        return outcome == .done
    }

    private func step() {
        guard let fd else { return }
        isSaving ? write(to: fd) : read(from: fd)
    }

    private func write(to fd: SharedFD) {
        while written < bytes.count {
            let part = bytes[written..<min(bytes.count, written + Self.portion)]
            // SAFETY: the buffer is used only during the call.
            let count = unsafe part.withUnsafeBytes { buffer in
                unsafe Glibc.write(fd.rawValue, buffer.baseAddress, buffer.count)
            }
            guard count >= 0 else { return failed() }
            written += count
        }
        end(.done)
    }

    private func read(from fd: SharedFD) {
        var part = [UInt8](repeating: 0, count: Self.portion)
        // SAFETY: the buffer is as long as the call is told.
        let count = unsafe Glibc.read(fd.rawValue, &part, part.count)
        guard count >= 0 else { return failed() }
        bytes += part.prefix(count)
        if bytes.count > DeviceStateImage.maximumSize { return end(.failed) }
        if count == 0 { end(load(bytes) ? .done : .failed) }
    }

    private func failed() {
        if errno != EAGAIN, errno != EINTR { end(.failed) }
    }

    private func end(_ outcome: Outcome) {
        self.outcome = outcome
        watch = nil
        fd = nil
        bytes = []
    }
}
