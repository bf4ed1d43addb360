import CLinux
import Core
import Glibc
import TestSupport

/// FUSE, spelled out once more so that the tests do not believe what the device believes (Linux,
/// <linux/fuse.h>).
enum FUSE {
    static let lookup: UInt32 = 1
    static let forget: UInt32 = 2
    static let getattr: UInt32 = 3
    static let setattr: UInt32 = 4
    static let readlink: UInt32 = 5
    static let symlink: UInt32 = 6
    static let mknod: UInt32 = 8
    static let mkdir: UInt32 = 9
    static let unlink: UInt32 = 10
    static let rmdir: UInt32 = 11
    static let rename: UInt32 = 12
    static let link: UInt32 = 13
    static let open: UInt32 = 14
    static let read: UInt32 = 15
    static let write: UInt32 = 16
    static let statfs: UInt32 = 17
    static let release: UInt32 = 18
    static let fsync: UInt32 = 20
    static let setxattr: UInt32 = 21
    static let getxattr: UInt32 = 22
    static let listxattr: UInt32 = 23
    static let removexattr: UInt32 = 24
    static let flush: UInt32 = 25
    static let start: UInt32 = 26
    static let opendir: UInt32 = 27
    static let readdir: UInt32 = 28
    static let releasedir: UInt32 = 29
    static let fsyncdir: UInt32 = 30
    static let getlk: UInt32 = 31
    static let setlk: UInt32 = 32
    static let setlkw: UInt32 = 33
    static let access: UInt32 = 34
    static let create: UInt32 = 35
    static let interrupt: UInt32 = 36
    static let destroy: UInt32 = 38
    static let batchForget: UInt32 = 42
    static let fallocate: UInt32 = 43
    static let readdirplus: UInt32 = 44
    static let rename2: UInt32 = 45
    static let setupMapping: UInt32 = 48
    static let removeMapping: UInt32 = 49
    static let lseek: UInt32 = 46
    static let copyFileRange: UInt32 = 47
    static let syncfs: UInt32 = 50
    static let tmpfile: UInt32 = 51
    static let statx: UInt32 = 52

    static let root: UInt64 = 1

    // Types of files (inode(7)).
    static let typeMask: UInt32 = 0o170000
    static let pipe: UInt32 = 0o010000
    static let folder: UInt32 = 0o040000
    static let regular: UInt32 = 0o100000
    static let linkType: UInt32 = 0o120000
    static let socket: UInt32 = 0o140000

    /// All that is served.
    static let all: [UInt32] =
        Array(1...6) + Array(8...18) + Array(20...36) + [38] + Array(42...47)
        + [50, 51, 52]

    static func text(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }
}

/// What a request was answered with.
struct Answer {
    /// A positive errno, or 0.
    let error: Int32
    /// What follows the header.
    let bytes: [UInt8]

    subscript<T: FixedWidthInteger>(offset: Int, type: T.Type) -> T {
        var value: T = 0
        for index in (0..<T.bitWidth / 8).reversed() {
            value = value << 8 | T(truncatingIfNeeded: bytes[offset + index])
        }
        return value
    }

    /// Of an answer that begins with an entry.
    var nodeID: UInt64 { self[0, UInt64.self] }

    /// `fuse_attr`, where it begins after `offset` bytes: 40 in an entry, 16 in an answer to GETATTR.
    func attributes(at offset: Int) -> Attributes {
        Attributes(
            inode: self[offset, UInt64.self], size: self[offset + 8, UInt64.self],
            mtime: self[offset + 32, UInt64.self], mode: self[offset + 60, UInt32.self],
            links: self[offset + 64, UInt32.self], user: self[offset + 68, UInt32.self],
            group: self[offset + 72, UInt32.self])
    }

    var entry: Attributes { attributes(at: 40) }

    struct Attributes: Equatable {
        var inode: UInt64
        var size: UInt64
        var mtime: UInt64
        var mode: UInt32
        var links: UInt32
        var user: UInt32
        var group: UInt32
    }
}
