/// Abilities that driver and device agree on in INIT (<linux/fuse.h>, "INIT request/reply flags").
struct FUSEAbilities: OptionSet {
    let rawValue: UInt64

    static let asyncRead = FUSEAbilities(rawValue: 1 << 0)
    static let recordLocks = FUSEAbilities(rawValue: 1 << 1)  // POSIX_LOCKS
    static let truncateOnOpen = FUSEAbilities(rawValue: 1 << 3)  // ATOMIC_O_TRUNC
    /// The driver leaves the mask for new files to the device.
    static let leavesMask = FUSEAbilities(rawValue: 1 << 6)  // DONT_MASK
    static let bigWrites = FUSEAbilities(rawValue: 1 << 5)
    static let fileLocks = FUSEAbilities(rawValue: 1 << 10)  // FLOCK_LOCKS
    static let invalidatesData = FUSEAbilities(rawValue: 1 << 12)  // AUTO_INVAL_DATA
    static let readFolderPlus = FUSEAbilities(rawValue: 1 << 13)  // DO_READDIRPLUS
    static let readFolderPlusAuto = FUSEAbilities(rawValue: 1 << 14)  // READDIRPLUS_AUTO
    static let asyncDirectIO = FUSEAbilities(rawValue: 1 << 15)  // ASYNC_DIO
    static let writebackCache = FUSEAbilities(rawValue: 1 << 16)
    static let parallelFolders = FUSEAbilities(rawValue: 1 << 18)  // PARALLEL_DIROPS
    static let accessLists = FUSEAbilities(rawValue: 1 << 20)  // POSIX_ACL
    static let maximumPages = FUSEAbilities(rawValue: 1 << 22)  // MAX_PAGES
    static let cacheSymlinks = FUSEAbilities(rawValue: 1 << 23)
    /// The device says how mappings must be aligned; there is a window, then.
    static let mapAlignment = FUSEAbilities(rawValue: 1 << 26)
    static let submounts = FUSEAbilities(rawValue: 1 << 27)
    /// The device takes set-ID bits away, when it is told to.
    static let dropsSetID = FUSEAbilities(rawValue: 1 << 28)  // HANDLE_KILLPRIV_V2
    static let largeSetAttribute = FUSEAbilities(rawValue: 1 << 29)  // SETXATTR_EXT
    /// There are more than 32 bits.
    static let extended = FUSEAbilities(rawValue: 1 << 30)  // INIT_EXT
    /// The driver sends the labels of what it makes.
    static let securityLabels = FUSEAbilities(rawValue: 1 << 32)  // SECURITY_CTX
    /// The device says of each file whether it is to be mapped.
    static let perFileMapping = FUSEAbilities(rawValue: 1 << 33)  // HAS_INODE_DAX
    static let mapsDirectIO = FUSEAbilities(rawValue: 1 << 36)  // DIRECT_IO_ALLOW_MMAP
}

/// What a SETATTR changes (`FATTR_...`).
struct FUSEChanges: OptionSet {
    let rawValue: UInt32

    static let mode = FUSEChanges(rawValue: 1 << 0)
    static let user = FUSEChanges(rawValue: 1 << 1)
    static let group = FUSEChanges(rawValue: 1 << 2)
    static let size = FUSEChanges(rawValue: 1 << 3)
    static let accessTime = FUSEChanges(rawValue: 1 << 4)
    static let modificationTime = FUSEChanges(rawValue: 1 << 5)
    static let handle = FUSEChanges(rawValue: 1 << 6)
    static let accessTimeNow = FUSEChanges(rawValue: 1 << 7)
    static let modificationTimeNow = FUSEChanges(rawValue: 1 << 8)
    static let dropSetID = FUSEChanges(rawValue: 1 << 11)  // FATTR_KILL_SUIDGID
}

/// What the driver may do with an open file (`FOPEN_...`).
enum FUSEOpenFlag {
    static let directIO: UInt32 = 1 << 0
    static let keepCache: UInt32 = 1 << 1
    static let cacheFolder: UInt32 = 1 << 3  // CACHE_DIR
    static let noFlush: UInt32 = 1 << 5
}

/// What a lock request is about (`FUSE_LK_...`).
enum FUSELock {
    static let flock: UInt32 = 1 << 0
}

/// What a driver is told without having asked (`enum fuse_notify_code`).
enum FUSENotification {
    static let inode: Int32 = 2  // FUSE_NOTIFY_INVAL_INODE
    static let entry: Int32 = 3  // FUSE_NOTIFY_INVAL_ENTRY
}

/// Requests to take set-ID bits away.
enum FUSEDropSetID {
    static let opening: UInt32 = 1 << 0  // FUSE_OPEN_KILL_SUIDGID
    static let writing: UInt32 = 1 << 2  // FUSE_WRITE_KILL_SUIDGID
    static let settingAccessList: UInt32 = 1 << 0  // FUSE_SETXATTR_ACL_KILL_SGID
}

/// Sizes and limits of the protocol.
enum FUSELimit {
    static let majorVersion: UInt32 = 7
    /// The newest that is known here. Below the oldest, structures are shorter.
    static let minorVersion: UInt32 = 39
    static let oldestMinorVersion: UInt32 = 27
    static let requestHeader = 40
    static let replyHeader = 16
    static let writeArguments = 40
    static let entry = 128
    /// The most that a READ or a WRITE moves, in pages of 4 KiB.
    static let transferPages: UInt16 = 256
    static let transfer = UInt32(transferPages) << 12
    /// The most of a name and of what a link leads to, without the NUL (NAME_MAX, PATH_MAX).
    static let name = 255
    static let path = 4095
    /// The most of the value of an extended attribute (XATTR_SIZE_MAX).
    static let attributeValue = 65536
}
