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

    init(_ fd: consuming OwnedFD, nodeID: UInt64, isFolder: Bool) {
        owned = fd
        self.nodeID = nodeID
        self.isFolder = isFolder
    }

    /// Valid as long as this object lives.
    var fd: Int32 { owned.rawValue }
}
