internal import CLinux
internal import Core

/// A file or folder that the driver has opened; closed when it has released it and the last request
/// is over. Or a file that was opened here, to hold what one of the driver's users has locked of it.
final class OpenFile: Sendable {
    private let owned: OwnedFD
    /// The number of the file that is open.
    let nodeID: UInt64
    let kind: clinux_handle_kind
    /// Whose locks these are.
    let lockOwner: LockOwner
    /// Where the next entry of a folder will be read, and the right to read there.
    let position = Lock<UInt64>(0)

    private struct View {
        /// `nil`: it is not known yet.
        var suits: Bool?
        var window: FileWindow?
    }

    private let view: Lock<View>
    /// What is locked by it.
    let held = Lock(HeldLocks())

    /// Whether all writes go to the end.
    let appends: Bool
    /// Whether it is known to lie in the host's own file system that is shared.
    let isLocal: Bool

    init(
        _ fd: consuming OwnedFD, nodeID: UInt64, _ kind: clinux_handle_kind,
        appends: Bool = false, isLocal: Bool = false, lockOwner: LockOwner = .none
    ) {
        owned = fd
        self.isLocal = isLocal
        view = Lock(View(suits: isLocal ? true : nil))
        self.appends = appends
        self.nodeID = nodeID
        self.kind = kind
        self.lockOwner = lockOwner
    }

    /// One that an earlier process has opened.
    init(_ kept: clinux_kept_handle, _ column: Int) {
        owned = OwnedFD(owning: kept.kept.number(in: column))
        nodeID = kept.node
        kind = clinux_handle_kind(kept.kind)
        lockOwner = LockOwner(id: kept.owner, process: kept.process, handle: kept.by)
        appends = kept.appends != 0
        isLocal = false
        view = Lock(View())
        // It is not known where the folder's descriptor stands.
        position.withLock { $0 = .max }
    }

    /// One that could not be opened again.
    static func lost(
        _ nodeID: UInt64, _ kind: clinux_handle_kind, _ owner: LockOwner
    ) -> OpenFile {
        OpenFile(OwnedFD(owning: -1), nodeID: nodeID, kind, lockOwner: owner)
    }

    var isLost: Bool { fd < 0 }

    /// A window of the file that covers a place; `nil` if there can be none.
    func window(_ offset: UInt64, in pool: FileWindow.Pool) -> FileWindow? {
        view.withLock { view in
            let suits = view.suits ?? FileWindow.suits(fd)
            view.suits = suits
            guard suits else { return nil }
            if let window = view.window, window.covers(offset), !window.isLost { return window }
            view.window = nil
            view.window = FileWindow(fd, around: offset, in: pool)
            return view.window
        }
    }

    /// Valid as long as this object lives.
    var fd: Int32 { owned.rawValue }
}

/// Whose locks POSIX tells apart: what the driver calls its processes' tables of open files.
struct LockOwner: Sendable {
    let id: UInt64
    /// The process's number, for others who ask who holds a lock.
    let process: UInt32
    /// The open file by which it has locked something first.
    let handle: UInt64

    static let none = LockOwner(id: 0, process: 0, handle: 0)
}
