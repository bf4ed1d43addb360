internal import CLinux
internal import Glibc

/// How long the driver may believe what it was told.
struct FUSEValidity {
    let seconds: UInt64

    static let none = FUSEValidity(seconds: 0)
}

extension FUSEReply {
    /// A file's attributes (`fuse_attr`, 88 bytes).
    /// - Parameter isSubmount: it is where another file system is mounted.
    func put(_ status: clinux_file_status, isSubmount: Bool = false) {
        put(status.inode)
        put(status.size)
        put(status.blocks)
        put(status.atime)
        put(status.mtime)
        put(status.ctime)
        put(status.atime_ns)
        put(status.mtime_ns)
        put(status.ctime_ns)
        put(status.mode)
        put(status.links)
        put(users.guest(status.user))
        put(groups.guest(status.group))
        put(Self.deviceNumber(status.node_major, status.node_minor))
        put(status.block_size)
        let device = UInt64(status.major) << 32 | UInt64(status.minor)
        let isMapped = status.type == S_IFREG && device == mappedDevice
        put((isSubmount ? 1 : 0 as UInt32) | (isMapped ? 2 : 0))  // FUSE_ATTR_SUBMOUNT, _DAX
    }

    /// Linux's own form of a device's number: twelve bits of the one, twenty of the other.
    private static func deviceNumber(_ major: UInt32, _ minor: UInt32) -> UInt32 {
        (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
    }

    /// The same the other way round.
    static func majorAndMinor(_ number: UInt32) -> (major: UInt32, minor: UInt32) {
        (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
    }

    /// What a name stands for (`fuse_entry_out`).
    /// - Parameter folder: where it was found, unless it was made there.
    func putEntry(
        _ nodeID: UInt64, _ status: clinux_file_status, _ validity: FUSEValidity,
        below folder: Node? = nil
    ) {
        put(nodeID)
        put(0 as UInt64)  // generation: a node's number is never used again
        put(validity.seconds)
        put(validity.seconds)
        put(0 as UInt64)  // nanoseconds of both
        let isSubmount =
            folder.map { status.type == S_IFDIR && status.mount != $0.key.mount } ?? false
        put(status, isSubmount: isSubmount)
    }

    /// `fuse_attr_out`
    func putAttributes(_ status: clinux_file_status, _ validity: FUSEValidity) {
        put(validity.seconds)
        put(0 as UInt64)  // nanoseconds, padding
        put(status)
    }

    /// `fuse_statx_out`
    func putExtended(_ status: clinux_file_status, _ validity: FUSEValidity) {
        put(validity.seconds)
        put(0 as UInt64)  // nanoseconds, flags
        putZeroes(16)
        put(status.mask & UInt32(0xfff))  // what both ends know: STATX_BASIC_STATS, STATX_BTIME
        put(status.block_size)
        put(status.attributes)
        put(status.links)
        put(users.guest(status.user))
        put(groups.guest(status.group))
        put(UInt16(truncatingIfNeeded: status.mode))
        putZeroes(2)
        put(status.inode)
        put(status.size)
        put(status.blocks)
        put(status.attributes_mask)
        putTime(status.atime, status.atime_ns)
        putTime(status.btime, status.btime_ns)
        putTime(status.ctime, status.ctime_ns)
        putTime(status.mtime, status.mtime_ns)
        put(status.node_major)
        put(status.node_minor)
        put(status.major)
        put(status.minor)
        putZeroes(14 * 8)
    }

    private func putTime(_ seconds: Int64, _ nanoseconds: UInt32) {
        put(seconds)
        put(nanoseconds)
        putZeroes(4)
    }
}
