internal import CLinux
internal import Core
internal import Glibc

/// Where a stream's connections come from, one after the other.
struct StreamSource {
    enum Kind {
        /// The socket of that name in the thread's working folder.
        case connect(name: String)
        case accept(SharedFD)
        /// There was one, and there will be no other.
        case none
    }

    private static let shortestRetry: UInt64 = 20_000_000
    private static let longestRetry: UInt64 = 1_000_000_000

    private let kind: Kind
    private var retryDelay = StreamSource.shortestRetry
    /// When to ask at the latest, by the monotonic clock.
    private(set) var deadline: UInt64?

    init(_ kind: Kind) {
        self.kind = kind
        disconnected()
    }

    /// What becomes readable when somebody connects; -1 if nobody will.
    var fd: Int32 {
        if case .accept(let listener) = kind { listener.rawValue } else { -1 }
    }

    /// Looks for a connection, if that is due.
    /// - Parameter isReadable: `fd` is.
    /// - Returns: a new one, which does not wait.
    mutating func next(isReadable: Bool) -> SharedFD? {
        let new: SharedFD?
        switch kind {
        case .none: new = nil
        case .accept(let listener): new = isReadable ? Self.accepted(listener) : nil
        case .connect(let name):
            guard let deadline, Clock.monotonic() >= deadline else { return nil }
            new = connected(name)
        }
        guard let new else { return nil }
        _ = clinux_set_nonblocking(new.rawValue)
        deadline = nil
        retryDelay = Self.shortestRetry
        return new
    }

    private static func accepted(_ listener: SharedFD) -> SharedFD? {
        let new = clinux_accept(listener.rawValue)
        return new >= 0 ? SharedFD(owning: new) : nil
    }

    private mutating func connected(_ name: String) -> SharedFD? {
        let new = clinux_unix_socket()
        if new >= 0 {
            let socket = SharedFD(owning: new)
            if unsafe clinux_unix_connect(new, name) == 0 { return socket }
        }
        deadline = Clock.monotonic() + retryDelay
        retryDelay = min(retryDelay * 2, Self.longestRetry)
        return nil
    }

    /// The connection is over; another one is wanted.
    mutating func disconnected() {
        if case .connect = kind { deadline = 0 }
    }
}
