internal import CLinux
internal import Core
internal import Glibc

/// The open descriptors of an image. They can be handed to a process that must not open files.
struct ImageFiles: Sendable {
    /// What requests go to. A read-write image is held exclusively, a read-only one together with
    /// other readers: for as long as any process has this descriptor.
    let file: SharedFD
    /// With direct I/O, a second way to the same bytes for requests that are not aligned for it.
    let cachedFile: SharedFD?

    /// Opens and locks the image. A busy image is tried again for `patience` nanoseconds: a killed
    /// process holds its lock until its last I/O is done.
    init(_ options: BlockOptions, patience: UInt64 = 1_000_000_000) throws(BlockError) {
        let isBlockDevice = try Self.isBlockDevice(options.path)
        file = try Self.open(options, isBlockDevice: isBlockDevice, patience: patience)
        if options.isLocked { try Self.lock(file.rawValue, options, patience: patience) }
        cachedFile = options.isDirect ? try Self.reopen(file.rawValue, options) : nil
    }

    /// Takes what has been opened, perhaps by the parent process, in the order of `all`.
    init(adopting files: [SharedFD], _ options: BlockOptions) throws(BlockError) {
        guard files.count == (options.isDirect ? 2 : 1) else {
            throw BlockError("an image is one open descriptor, or two with direct=on")
        }
        file = files[0]
        cachedFile = options.isDirect ? files[1] : nil
        // A lock belongs to all that have the descriptor; one that has ended may have given it up.
        if options.isLocked { try Self.lock(file.rawValue, options, patience: 0) }
    }

    var all: [SharedFD] { [file] + (cachedFile.map { [$0] } ?? []) }

    /// Opening other things can have consequences of its own.
    private static func isBlockDevice(_ path: String) throws(BlockError) -> Bool {
        var status = stat()
        // SAFETY: the path is NUL-terminated; `status` lives for the call.
        guard unsafe stat(path, &status) == 0 else {
            throw BlockError(
                "cannot open image \(path): \(SystemError("stat", errno: errno).reason)")
        }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return false
        case S_IFBLK: return true
        case S_IFDIR: throw BlockError("image \(path) is a directory")
        default: throw BlockError("image \(path) is neither a file nor a block device")
        }
    }

    private static func open(
        _ options: BlockOptions, isBlockDevice: Bool, patience: UInt64
    ) throws(BlockError) -> SharedFD {
        var flags = options.isReadOnly ? O_RDONLY : O_RDWR
        if options.isDirect { flags |= CLINUX_O_DIRECT }
        // A device that is mounted must not be written to.
        if isBlockDevice && options.isLocked && !options.isReadOnly { flags |= O_EXCL }
        let deadline = Clock.monotonic() &+ patience
        while true {
            // SAFETY: the string is NUL-terminated and lives for the call.
            let result = unsafe clinux_open(options.path, flags, 0)
            if result >= 0 { return SharedFD(owning: result) }
            if result == -EBUSY && pause(until: deadline) { continue }
            throw refusal(-result, options)
        }
    }

    private static func refusal(_ code: Int32, _ options: BlockOptions) -> BlockError {
        let path = options.path
        switch code {
        case EBUSY:
            return BlockError("block device \(path) is mounted, or in use by another process")
        case EINVAL where options.isDirect:
            return BlockError("image \(path) is on a file system without direct I/O")
        case EACCES where !options.isReadOnly, EROFS:
            return BlockError(
                "cannot open image \(path) for writing: \(SystemError("open", errno: code).reason)")
        default:
            return BlockError(
                "cannot open image \(path): \(SystemError("open", errno: code).reason)")
        }
    }

    private static func busy(_ path: String) -> BlockError {
        BlockError("image \(path) is in use by another process")
    }

    private static func lock(
        _ fd: Int32, _ options: BlockOptions, patience: UInt64
    ) throws(BlockError) {
        let deadline = Clock.monotonic() &+ patience
        while true {
            let result = clinux_lock_file(fd, options.isReadOnly ? 0 : 1)
            if result == 0 { return }
            if result == -EAGAIN {
                if pause(until: deadline) { continue }
                throw busy(options.path)
            }
            throw BlockError(
                "cannot lock image \(options.path): "
                    + "\(SystemError("fcntl", errno: -result).reason); lock=off would use it anyway"
            )
        }
    }

    /// Waits a little. Returns false once the deadline has passed.
    private static func pause(until deadline: UInt64) -> Bool {
        guard Clock.monotonic() < deadline else { return false }
        usleep(20_000)
        return true
    }

    /// Opens the same file once more, without direct I/O.
    private static func reopen(
        _ fd: Int32, _ options: BlockOptions
    ) throws(BlockError) -> SharedFD {
        // SAFETY: the string is NUL-terminated and lives for the call.
        let result = unsafe clinux_open(
            "/proc/self/fd/\(fd)", options.isReadOnly ? O_RDONLY : O_RDWR, 0)
        if result >= 0 { return SharedFD(owning: result) }
        throw BlockError(
            "cannot open image \(options.path) again: "
                + SystemError("open", errno: -result).reason)
    }
}
