internal import CLinux
internal import Core
internal import Glibc

/// A file of the shared folder that the driver knows, of whatever type. It is held open by a
/// descriptor that can only name it (O_PATH), so it stays the same file whatever happens to its
/// names; closed when the driver has forgotten it and the last request is over.
final class Node: Sendable {
    /// What tells a file from all others while somebody holds it open.
    struct Key: Hashable, Sendable {
        let inode: UInt64
        let device: UInt64
        let mount: UInt64

        init(_ status: clinux_file_status) {
            inode = status.inode
            device = UInt64(status.major) << 32 | UInt64(status.minor)
            mount = status.mount
        }

        init(inode: UInt64, device: UInt64, mount: UInt64) {
            self.inode = inode
            self.device = device
            self.mount = mount
        }

        init(_ kept: clinux_kept_node) {
            inode = kept.inode
            device = kept.device
            mount = kept.mount
        }
    }

    private let owned: OwnedFD
    let key: Key
    let type: UInt32

    init(_ fd: consuming OwnedFD, _ status: clinux_file_status) {
        owned = fd
        key = Key(status)
        type = status.mode & S_IFMT
    }

    /// One that an earlier process knew.
    init(_ kept: clinux_kept_node, _ column: Int) {
        owned = OwnedFD(owning: kept.kept.number(in: column))
        key = Key(kept)
        type = kept.type
    }

    /// Valid as long as this object lives.
    var fd: Int32 { owned.rawValue }
    var isFolder: Bool { type == S_IFDIR }
    var isRegular: Bool { type == S_IFREG }
    var isLink: Bool { type == S_IFLNK }

    /// The file's attributes now.
    func status() throws(FUSEError) -> clinux_file_status {
        try FileStatus.of(fd)
    }
}

extension clinux_file_status {
    var type: UInt32 { mode & S_IFMT }

    /// Whether this was made at a time or later; of a file system that does not say so, whether it
    /// was changed.
    func isMade(since time: TaskNote.Time) -> Bool {
        mask & CLINUX_STATUS_HAS_BTIME != 0
            ? time.isNotAfter(btime, btime_ns) : isChanged(since: time)
    }

    func isChanged(since time: TaskNote.Time) -> Bool { time.isNotAfter(ctime, ctime_ns) }
}

enum FileStatus {
    /// The attributes of an open file.
    static func of(_ fd: Int32) throws(FUSEError) -> clinux_file_status {
        var status = clinux_file_status()
        // SAFETY: the name and the result live for the call.
        try fuseChecking(unsafe clinux_file_status(fd, "", &status))
        return status
    }

    /// The attributes of what a name in a folder stands for.
    static func of(_ folder: Int32, _ name: FUSEText) throws(FUSEError) -> clinux_file_status {
        var status = clinux_file_status()
        // SAFETY: as above.
        try fuseChecking(unsafe clinux_file_status(folder, name.pointer, &status))
        return status
    }
}
