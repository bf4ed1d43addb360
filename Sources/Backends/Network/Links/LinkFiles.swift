internal import CLinux
internal import Core
internal import Glibc
internal import VhostUser

/// What an up-link needs of the host's files, opened before the process locks itself in.
struct LinkFiles {
    /// In the order in which they are handed over to another process.
    let all: [SharedFD]

    /// Takes what another process has opened for the same options.
    init(
        adopting files: some Collection<SharedFD>, _ options: NetworkOptions
    ) throws(BackendError) {
        guard files.count == Self.count(options.link) else {
            throw BackendError("\(files.count) files are open, which is not what the link needs")
        }
        all = Array(files)
    }

    private static func count(_ link: NetworkOptions.Link) -> Int {
        switch link {
        case .none: 0
        case .stream, .inherited, .user: 1
        case .datagram: 2
        case .tap, .inheritedTap: link.pairCount
        }
    }

    /// Opens what the options name.
    init(_ options: NetworkOptions) throws(BackendError) {
        switch options.link {
        case .none: all = []
        case .stream(let path, .client): all = [try Self.folder(of: path)]
        case .stream(let path, .server): all = [try Self.listener(path)]
        case .datagram(let local, let remote):
            all = [try Self.bound(local), try Self.folder(of: remote)]
        case .inherited(let number): all = [try Self.inherited(number)]
        case .user(let network): all = [try network.start()]
        case .tap(let name, let queues): all = try Self.tap(name, queues)
        case .inheritedTap(let numbers, let hasHeader):
            all = try numbers.map { number throws(BackendError) in
                try Self.inheritedTap(number, hasHeader: hasHeader)
            }
        }
    }

    /// Listens there, for as long as somebody has the descriptor.
    static func listener(_ path: String) throws(BackendError) -> SharedFD {
        do {
            return try UnixListener(path: path, isPassedOn: true).fd
        } catch {
            throw BackendError(UnixListener.failure(at: path, error))
        }
    }

    private static func bound(_ path: String) throws(BackendError) -> SharedFD {
        do {
            let fd = SharedFD(
                owning: try checking("socket", clinux_unix_datagram_socket()))
            try UnixListener.bind(fd, at: path)
            return fd
        } catch {
            throw BackendError(UnixListener.failure(at: path, error))
        }
    }

    /// The folder that holds `path`.
    private static func folder(of path: String) throws(BackendError) -> SharedFD {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropLast()
        let folder = parts.isEmpty ? "." : parts.joined(separator: "/")
        return try SharedFD(
            opened: unsafe clinux_open_folder(folder.isEmpty ? "/" : folder),
            orFail: "cannot use the folder of \(path)")
    }

    private static func inherited(_ number: Int32) throws(BackendError) -> SharedFD {
        try SharedFD(
            opened: clinux_fcntl(number, F_DUPFD_CLOEXEC, 3),
            orFail: "descriptor \(number) cannot be used")
    }

    private static func tap(_ name: String, _ queues: Int) throws(BackendError) -> [SharedFD] {
        do {
            let all = try (0..<queues).map { _ throws(SystemError) in
                let fd = unsafe clinux_open_tap(name, queues > 1 ? 1 : 0)
                return SharedFD(owning: try checking("open", fd))
            }
            unsafe clinux_tap_up(name)
            return all
        } catch {
            throw BackendError("the tap interface \(name) cannot be used: \(tapReason(error))")
        }
    }

    private static func tapReason(_ error: SystemError) -> String {
        switch error.code {
        case EPERM: "it must exist and belong to the user, or be made with CAP_NET_ADMIN"
        case EBUSY: "another program uses it"
        case EINVAL: "it is no tap interface, or not one with several queues"
        default: error.reason
        }
    }

    private static func inheritedTap(
        _ number: Int32, hasHeader: Bool
    ) throws(BackendError) -> SharedFD {
        let fd = try inherited(number)
        let kind = clinux_tap_kind(fd.rawValue)
        guard kind != 0 else {
            throw BackendError(
                "descriptor \(number) cannot be used: it is no tap interface with IFF_NO_PI")
        }
        guard (kind & CLINUX_TAP_HEADER != 0) == hasHeader else {
            throw BackendError(
                hasHeader
                    ? "descriptor \(number) is a tap interface whose frames have no header; open it "
                        + "with IFF_VNET_HDR, or say vnet-header=off"
                    : "descriptor \(number) is a tap interface whose frames have a header, as it was "
                        + "opened with IFF_VNET_HDR; leave vnet-header=off away")
        }
        _ = clinux_set_nonblocking(fd.rawValue)
        return fd
    }

    /// Whether the socket is one for datagrams.
    static func isDatagram(_ fd: SharedFD) throws(BackendError) -> Bool {
        var type: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: both results live for the call, and `size` is the value's.
        let code = unsafe getsockopt(fd.rawValue, SOL_SOCKET, SO_TYPE, &type, &size)
        guard code == 0 else {
            throw BackendError("the descriptor of type=connected is no socket")
        }
        return type != Int32(SOCK_STREAM.rawValue)
    }

    /// The last part of a path.
    static func name(of path: String) -> String {
        String(path.split(separator: "/", omittingEmptySubsequences: false).last ?? "")
    }
}
