internal import CLinux
internal import Core
internal import Synchronization

/// A file or folder that the driver has opened; closed when it has released it and the last request
/// is over.
final class OpenFile: Sendable {
    private let owned: OwnedFD
    /// The number of the file that is open.
    let nodeID: UInt64
    let isFolder: Bool
    /// Where the next entry of a folder will be read, and the right to read there.
    let position = Mutex<UInt64>(0)

    /// Whether all writes go to the end.
    let appends: Bool

    init(_ fd: consuming OwnedFD, nodeID: UInt64, isFolder: Bool, appends: Bool = false) {
        owned = fd
        self.appends = appends
        self.nodeID = nodeID
        self.isFolder = isFolder
    }

    /// One that an earlier process has opened.
    init(_ kept: clinux_kept_handle, _ column: Int) {
        owned = OwnedFD(owning: kept.kept.number(in: column))
        nodeID = kept.node
        isFolder = kept.is_folder != 0
        appends = kept.appends != 0
        // It is not known where the folder's descriptor stands.
        position.withLock { $0 = .max }
    }

    /// Valid as long as this object lives.
    var fd: Int32 { owned.rawValue }
}
