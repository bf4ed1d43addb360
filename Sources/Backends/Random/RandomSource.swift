internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// Where random bytes come from: the kernel, or a file that the user named.
///
/// A file may have nothing to give for a while: a pipe whose writer rests or has left, a device that
/// gathers noise, a file that has been read to its end. `wait` then tells when to look again: when
/// the file is readable, and where that cannot be told or proves wrong, after a time.
final class RandomSource {
    private static let log = Log("rng")
    private static let shortestDelay: UInt32 = 10
    private static let longestDelay: UInt32 = 1000

    private let file: SharedFD?
    private let path: String
    private var hasWarned = false
    /// The file has nothing yet, and is readable as soon as it has.
    private var canWatch = false
    /// The file was said to be readable since it last gave something or was left alone.
    private var wasReadable = false
    private var delay = RandomSource.shortestDelay
    private var waiting: EventRegistration?

    /// Opens what the options name.
    static func open(_ options: RandomOptions) throws(BackendError) -> [SharedFD] {
        guard let path = options.path else { return [] }
        // SAFETY: the path lives for the call.
        let file = try SharedFD(
            opened: unsafe clinux_open(path, O_RDONLY | O_NONBLOCK, 0),
            orFail: "cannot open the source \(path)")
        var status = stat()
        // SAFETY: the result lives for the call.
        guard unsafe fstat(file.rawValue, &status) == 0, status.st_mode & S_IFMT != S_IFDIR else {
            throw BackendError("the source \(path) is a directory; name a file or a device")
        }
        return [file]
    }

    /// - Parameter files: what `open` has opened, perhaps in the parent process.
    init(_ files: [SharedFD], _ options: RandomOptions) throws(BackendError) {
        guard files.count == (options.path == nil ? 0 : 1) else {
            throw BackendError(
                "a source is one open descriptor, and without a source there is none, but"
                    + " --open-fds has \(files.count)")
        }
        file = files.first
        path = options.path ?? "getrandom"
        // A parent process may have opened it otherwise.
        if let file { _ = clinux_set_nonblocking(file.rawValue) }
    }

    // MARK: Reading

    /// Fills `bytes`, which are some, from their start.
    /// - Returns: how many there are now; after 0, `wait`.
    func fill(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        let count = unsafe read(bytes)
        canWatch = count == -Int(EAGAIN) && !wasReadable
        if count > 0 {
            wasReadable = false
            delay = Self.shortestDelay
            return count
        }
        if count != -Int(EAGAIN) { warn(count) }
        return 0
    }

    /// - Returns: how many bytes there are, or `-errno`.
    private func read(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
        guard let address = bytes.baseAddress else { return 0 }
        var count: Int
        repeat {
            // SAFETY: the buffer is the caller's and as long as it says.
            if let file {
                count = unsafe Glibc.read(file.rawValue, address, bytes.count)
                if count < 0 { count = -Int(errno) }
            } else {
                count = unsafe clinux_random(address, bytes.count)
            }
        } while count == -Int(EINTR)
        return count
    }

    private func warn(_ count: Int) {
        if hasWarned { return }
        hasWarned = true
        let code = Int32(truncatingIfNeeded: -count)
        let reason = count == 0 ? "it has ended" : SystemError("read", errno: code).reason
        Self.log(
            .warning,
            "the source \(path) gives no random bytes: \(reason); the guest's requests wait until it"
                + " gives more, so feed it or start the device with another source")
    }

    // MARK: Waiting

    /// Whether somebody waits.
    var isWaited: Bool { waiting != nil }

    /// Calls `handler` once when there may be bytes, after `fill` has found none.
    func wait(on loop: EventLoop, _ handler: @escaping () -> Void) {
        if canWatch, let file {
            waiting = loop.watch(file.rawValue, for: .readable) { [unowned self] _ in
                wasReadable = true
                waiting = nil
                handler()
            }
            return
        }
        waiting = loop.after(milliseconds: delay) { [unowned self] in
            wasReadable = false
            waiting = nil
            handler()
        }
        delay = min(2 * delay, Self.longestDelay)
    }

    /// Calls no handler any more.
    func stopWaiting() { waiting = nil }
}
