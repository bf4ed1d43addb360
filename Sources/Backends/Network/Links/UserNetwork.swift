internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// The host's sockets as a guest's network, which takes no privileges: `passt`, a program of others
/// that is started for this interface and ends with it.
package struct UserNetwork: Equatable, Sendable {
    /// `nil`: where it is usually installed.
    package var program: String?
    /// Ports of the host that lead to the guest, as passt writes them.
    package var tcpPorts: [String] = []
    package var udpPorts: [String] = []
    /// Whatever else passt is to be told.
    package var arguments: [String] = []

    private static let usualPlaces = ["/usr/local/bin/passt", "/usr/bin/passt", "/bin/passt"]
    private static let socketNumber: Int32 = 3
    /// Bytes that may be on their way from passt: more than a guest's TCP window, up to 6 MiB with Linux.
    /// What its socket does not take it drops, and then sends again, many times over.
    private static let roomForFrames: Int32 = 8 << 20

    /// Starts the program. It ends when the last one who has the socket is gone.
    /// - Returns: what it is spoken to by.
    func start() throws(BackendError) -> SharedFD {
        guard let path = program ?? Self.usualPlaces.first(where: Self.isProgram) else {
            throw BackendError(
                "the program passt of type=user is neither in /usr/local/bin nor in /usr/bin; install "
                    + "it (Debian's package passt) or say where it is with passt=PATH")
        }
        do throws(SystemError) {
            let (near, far) = try UnixSocket.pair()
            // It waits where it has half a frame to send.
            _ = clinux_fcntl(far.fd.rawValue, F_SETFL, 0)
            Self.makeRoom(in: far.fd)
            _ = try ChildProcess(
                path: path, arguments: commandLine, environment: [],
                descriptors: [(far.fd, Self.socketNumber)])
            return near.fd
        } catch {
            throw BackendError("the program \(path) of type=user does not start: \(error.reason)")
        }
    }

    /// Does for passt what it does itself only for a socket that it listens at.
    private static func makeRoom(in socket: SharedFD) {
        var size = roomForFrames
        // More than net.core.wmem_max takes a privilege; without it, that much is what there is.
        for option in [SO_SNDBUFFORCE, SO_SNDBUF] {
            // SAFETY: the call reads `size`, which has as many bytes as it is told.
            let result = unsafe setsockopt(
                socket.rawValue, SOL_SOCKET, option, &size, socklen_t(MemoryLayout<Int32>.size))
            if result == 0 { return }
        }
    }

    private static func isProgram(_ path: String) -> Bool {
        // SAFETY: the string lives for the call.
        unsafe access(path, X_OK) == 0
    }

    var commandLine: [String] {
        var words = ["passt", "--foreground", "--quiet", "--fd", String(Self.socketNumber)]
        if !tcpPorts.isEmpty { words += ["--tcp-ports", tcpPorts.joined(separator: ",")] }
        if !udpPorts.isEmpty { words += ["--udp-ports", udpPorts.joined(separator: ",")] }
        return words + arguments
    }
}
