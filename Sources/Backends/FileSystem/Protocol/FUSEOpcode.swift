/// What a request asks for (Linux, `enum fuse_opcode` of <linux/fuse.h>). Those that are missing
/// here are not served.
enum FUSEOpcode: UInt32 {
    case lookup = 1
    case forget = 2
    case getAttributes = 3  // GETATTR
    case setAttributes = 4  // SETATTR
    case readLink = 5
    case symlink = 6
    case makeNode = 8  // MKNOD
    case makeFolder = 9  // MKDIR
    case unlink = 10
    case removeFolder = 11  // RMDIR
    case rename = 12
    case link = 13
    case open = 14
    case read = 15
    case write = 16
    case space = 17  // STATFS
    case release = 18
    case sync = 20  // FSYNC
    case setExtendedAttribute = 21  // SETXATTR
    case getExtendedAttribute = 22  // GETXATTR
    case listExtendedAttributes = 23  // LISTXATTR
    case removeExtendedAttribute = 24  // REMOVEXATTR
    case flush = 25
    case start = 26  // INIT
    case openFolder = 27  // OPENDIR
    case readFolder = 28  // READDIR
    case releaseFolder = 29  // RELEASEDIR
    case syncFolder = 30  // FSYNCDIR
    case findLock = 31  // GETLK
    case setLock = 32  // SETLK
    case awaitLock = 33  // SETLKW
    case access = 34
    case create = 35
    case interrupt = 36
    case end = 38  // DESTROY
    case forgetMany = 42  // BATCH_FORGET
    case allocate = 43  // FALLOCATE
    case readFolderPlus = 44  // READDIRPLUS
    case rename2 = 45
    case seek = 46  // LSEEK
    case copyRange = 47  // COPY_FILE_RANGE
    case setUpMapping = 48  // SETUPMAPPING
    case removeMapping = 49  // REMOVEMAPPING
    case syncFileSystem = 50  // SYNCFS
    case temporaryFile = 51  // TMPFILE
    case extendedStatus = 52  // STATX

    /// Whether the shared folder changes.
    var isChange: Bool {
        switch self {
        case .setAttributes, .symlink, .makeNode, .makeFolder, .unlink, .removeFolder, .rename,
            .link, .write, .setExtendedAttribute, .removeExtendedAttribute, .create, .allocate,
            .rename2, .copyRange, .temporaryFile:
            true
        default: false
        }
    }
}
