internal import CLinux

/// As whom a queue's thread works with files: as root, or as a user of the guest. To become somebody
/// else takes longer than to make a file, so a thread stays who it is for as long as that does not
/// matter: what is open is read, written and closed in the same way by root and by the user who asks
/// for it, and in the file system of the shared folder itself, if it is the host's own, names are
/// looked up in the same way, because the right to pass over permissions is kept.
struct FileUser {
    private var user: UInt32 = 0
    private var group: UInt32 = 0

    var isRoot: Bool { user | group == 0 }
    /// Whether set-ID bits stay where this user changes a file.
    var keepsSetID: Bool { user == 0 }

    func isSame(_ user: UInt32, _ group: UInt32) -> Bool {
        self.user == user && self.group == group
    }

    mutating func become(_ user: UInt32, _ group: UInt32) throws(FUSEError) {
        if isSame(user, group) { return }
        // It is root's afterwards if it fails.
        (self.user, self.group) = (0, 0)
        try fuseChecking(clinux_set_file_user(user, group))
        (self.user, self.group) = (user, group)
    }

    mutating func becomeRoot() {
        if isRoot { return }
        let result = clinux_set_file_user(0, 0)
        precondition(result == 0, "root is always there")
        (user, group) = (0, 0)
    }
}

extension FUSEOpcode {
    /// Whether it is all one who does it.
    var isAnybodys: Bool {
        switch self {
        case .forget, .forgetMany, .interrupt, .flush, .release, .releaseFolder: true
        default: false
        }
    }

    /// Whether it is the same if root does it and if the user does it who asks for it, or the
    /// operation itself says who does it.
    var isUsers: Bool {
        switch self {
        case .lookup, .getAttributes, .open, .read, .write, .seek, .openFolder, .readFolder,
            .readFolderPlus, .getExtendedAttribute, .create, .temporaryFile, .makeNode, .makeFolder,
            .symlink:
            true
        default: false
        }
    }

    /// Whether it may take long, whatever it is about.
    var isSlow: Bool {
        switch self {
        case .sync, .syncFolder, .syncFileSystem, .allocate, .copyRange: true
        default: false
        }
    }
}
