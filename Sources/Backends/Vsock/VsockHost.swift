internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// The host's side: a Unix socket for connections to the guest, and the folder with those for
/// connections from it. The protocol is Firecracker's ("Using the Firecracker Virtio-vsock
/// Device").
final class VsockHost {
    /// Programs that have not said yet which port they want.
    private static let callerLimit = 32
    private static let callerMilliseconds: UInt32 = 5000

    /// A program that has not said yet which port it wants.
    private final class Caller {
        let fd: SharedFD
        var line: [UInt8] = []
        var watch: EventRegistration?
        var patience: EventRegistration?

        init(_ fd: SharedFD) { self.fd = fd }
    }

    private let listener: UnixListener
    private let prefix: String
    private let loop: EventLoop
    private var acceptWatch: EventRegistration?
    private var callers: [ObjectIdentifier: Caller] = [:]

    /// A program wants to be connected to a port of the guest.
    var onCall: ((_ port: UInt32, SharedFD) -> Void)?

    /// Makes the socket, and opens its folder so that nothing outside of it can be reached.
    static func open(_ options: VsockOptions) throws -> [SharedFD] {
        // SAFETY: the path lives for the call.
        let folder = try SharedFD(
            opened: unsafe clinux_open_folder(options.folder),
            orFail: "cannot open the folder \(options.folder)")
        do throws(SystemError) {
            return [try UnixListener(path: options.path, isPassedOn: true).fd, folder]
        } catch {
            throw BackendError(UnixListener.failure(at: options.path, error))
        }
    }

    /// Makes what `open` has opened the process's working folder and the socket to listen at.
    static func enter(_ files: [SharedFD]) throws -> UnixListener {
        guard files.count == 2 else {
            throw BackendError("the device needs a listening socket and a folder")
        }
        // Sockets are named by paths only; these are from the folder.
        _ = try checking("fchdir", fchdir(files[1].rawValue) == 0 ? 0 : -errno)
        return try UnixListener(adopting: files[0])
    }

    /// - Parameter prefix: the sockets of programs are here, with `_` and the port behind it.
    init(_ listener: UnixListener, prefix: String, on loop: EventLoop) {
        self.listener = listener
        self.prefix = prefix
        self.loop = loop
        acceptWatch = loop.watch(listener.fd.rawValue, for: .readable) { [unowned self] _ in
            accept()
        }
    }

    /// Connects to the program that serves a port of the host; `nil` if there is none.
    func connect(port: UInt32) -> SharedFD? {
        (try? UnixSocket(connectingTo: "\(prefix)_\(port)"))?.fd
    }

    private func accept() {
        do {
            while let socket = try listener.accept() { add(socket.fd) }
        } catch {
            VsockDevice.log.guest("a connection is lost: \(error)")
        }
    }

    private func add(_ fd: SharedFD) {
        guard callers.count < Self.callerLimit else { return }
        let caller = Caller(fd)
        callers[ObjectIdentifier(caller)] = caller
        caller.patience = loop.after(milliseconds: Self.callerMilliseconds) {
            [unowned self, unowned caller] in remove(caller)
        }
        caller.watch = loop.watch(fd.rawValue, for: .readable) {
            [unowned self, unowned caller] _ in listen(to: caller)
        }
    }

    private func remove(_ caller: Caller) { callers[ObjectIdentifier(caller)] = nil }

    /// Reads byte by byte: what follows the line is the guest's.
    private func listen(to caller: Caller) {
        // Its own registration keeps nothing alive.
        withExtendedLifetime(caller) {
            var byte: UInt8 = 0
            while true {
                // SAFETY: there is room for one byte.
                let count = unsafe read(caller.fd.rawValue, &byte, 1)
                if count < 0, errno == EAGAIN || errno == EINTR { return }
                guard count == 1 else { return remove(caller) }
                if byte == UInt8(ascii: "\n") { break }
                guard caller.line.count < 32 else { return remove(caller) }
                caller.line.append(byte)
            }
            remove(caller)
            guard let port = Self.port(in: caller.line) else { return }
            onCall?(port, caller.fd)
        }
    }

    /// The port in a line of the form `CONNECT PORT`.
    static func port(in line: [UInt8]) -> UInt32? {
        let words = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
        guard words.count == 2, words[0].elementsEqual("CONNECT".utf8),
            words[1].allSatisfy(digits.contains)
        else { return nil }
        return UInt32(String(decoding: words[1], as: UTF8.self))
    }
}
