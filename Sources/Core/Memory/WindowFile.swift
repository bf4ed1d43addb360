internal import CLinux

/// What files a window takes.
///
/// A processor of the guest's waits inside KVM or in the middle of an instruction while a page of a
/// file is brought, and nobody can end that. So whoever brings it must be the host's kernel from a disk
/// of its own: another program (FUSE) or machine (NFS, 9p) could take for ever, on purpose as well.
///
/// An overlay is taken for containers' sake, and does not say what is below it. Where the kernel allows
/// users to make mounts, an attacker on the host could put his own FUSE file system there.
enum WindowFile {
    /// Local file systems by what statfs(2) calls them (linux/magic.h, and each one's own headers).
    private static let local: Set<Int64> = [
        0xEF53,  // ext2, ext3, ext4
        0x5846_5342,  // XFS
        0x9123_683E,  // Btrfs
        0xCA45_1A4E,  // bcachefs
        0xF2F5_2010,  // F2FS
        0x2FC1_2FC1,  // ZFS
        0x0102_1994,  // tmpfs, memfd
        0x8584_58F6,  // ramfs
        0x794C_7630,  // overlay
        0xE0F5_E1E2,  // EROFS
        0x7371_7368,  // SquashFS
        0x9660,  // ISO 9660
        0x1501_3346,  // UDF
        0x4D44,  // FAT
        0x2011_BAB0,  // exFAT
        0x7366_746E,  // NTFS (ntfs3)
        0x3153_464A,  // JFS
        0x3434,  // NILFS2
    ]

    /// What people may come with.
    private static let names: [Int64: String] = [
        0x6573_5546: "FUSE", 0x6969: "NFS", 0x0102_1997: "9p", 0x517B: "SMB",
        0xFF53_4D42: "SMB", 0xFE53_4D42: "SMB", 0x00C3_6400: "Ceph", 0x5346_414F: "AFS",
        0x6B41_4653: "AFS", 0x7461_636F: "OCFS2", 0x0116_1970: "GFS2", 0x0BD0_0BD0: "Lustre",
        0x9FA0: "proc", 0x6265_6572: "sysfs", 0x6367_7270: "cgroup2", 0x6462_6720: "debugfs",
        0x9584_58F6: "hugetlbfs",
    ]

    /// Checks a descriptor that somebody has sent. A file system that gives no answer holds up the
    /// caller.
    static func check(_ fd: Int32) throws(WindowError) {
        var alignment: UInt64 = 0
        var fileSize: Int64 = -1
        // SAFETY: both results live for the call.
        guard unsafe clinux_file_shape(fd, &alignment, &fileSize) == 0, fileSize >= 0,
            alignment == SharedWindow.pageSize
        else { throw .file }
        if let name = foreignFileSystem(fd) { throw .fileSystem(name) }
    }

    /// What the file system is called on which a file or folder lies; `nil`: it is a local one.
    static func foreignFileSystem(_ fd: Int32) -> String? {
        let type = clinux_file_system(fd)
        if local.contains(type) { return nil }
        return names[type] ?? "type 0x" + String(type, radix: 16)
    }
}
