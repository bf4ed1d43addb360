internal import CLinux
internal import Core
internal import Glibc

/// An open disk image whose bytes are the disk's bytes: a regular file or a block device. It is
/// locked for as long as it is open.
///
/// The size is fixed when the image is opened and is a whole number of blocks; an image that is
/// not is refused, because serving less would hide data and serving more would make some up.
///
/// A file that somebody makes shorter later has lost data, and what lies behind its new end fails,
/// reads and writes alike: a write would make the file longer again and show zeroes where the data
/// was. It is up to the user to restore the size.
final class RawImage: Sendable {
    /// A read-write image is held exclusively, a read-only one together with other readers.
    private let file: SharedFD
    /// With direct I/O, a second way to the same bytes for requests that are not aligned for it.
    private let cachedFile: SharedFD?

    /// Bytes; a multiple of `blockSize`.
    let size: UInt64
    let blockSize: UInt32
    let topology: Topology
    let isReadOnly: Bool
    let isBlockDevice: Bool
    /// Whether reads and writes never wait for a device, so that handing them over costs more than
    /// doing them.
    let isInMemory: Bool
    let canDiscard: Bool
    /// What direct I/O asks of buffers and of offsets, both powers of two; 1 without direct I/O.
    let memoryAlignment: UInt64
    let offsetAlignment: UInt64

    /// Hints for the guest's layout decisions, in bytes.
    struct Topology: Equatable, Sendable {
        var physicalBlockSize: UInt32
        var alignmentOffset: UInt32 = 0
        var minimumIOSize: UInt32 = 0
        var optimalIOSize: UInt32 = 0
        /// The piece in which space is given back.
        var discardGranularity: UInt32
    }

    var fd: Int32 { file.rawValue }
    /// The descriptor for requests that direct I/O cannot do; the same as `fd` without direct I/O.
    var cachedFD: Int32 { cachedFile?.rawValue ?? file.rawValue }
    var isDirect: Bool { cachedFile != nil }

    /// Opens and locks the image; see `ImageFiles`.
    convenience init(_ options: BlockOptions, patience: UInt64 = 1_000_000_000) throws(BlockError) {
        try self.init(options, ImageFiles(options, patience: patience))
    }

    /// Takes an open image.
    init(_ options: BlockOptions, _ files: ImageFiles) throws(BlockError) {
        let path = options.path
        let kind = try FileKind(files.file.rawValue, path: path)
        let geometry = try Geometry(files.file.rawValue, kind, path: path)
        if geometry.isReadOnly && !options.isReadOnly {
            throw BlockError("block device \(path) is read-only; add readonly=on to use it")
        }
        var alignment = DirectAlignment(memory: 1, offset: 1)
        if options.isDirect {
            alignment = try DirectAlignment(files.file.rawValue, geometry, path: path)
        }
        let block = options.blockSize ?? max(geometry.logicalBlockSize, 512)
        let isForeign = Self.beginsLikeQCOW2((files.cachedFile ?? files.file).rawValue)
        try Self.check(geometry.size, blockSize: block, path: path, isForeign: isForeign)
        if isForeign {
            blockLog(
                .warning,
                "image \(path) begins like a QCOW2 file, and is a raw one here all the same; if it is "
                    + "one, \(Self.conversion)")
        }

        file = files.file
        cachedFile = files.cachedFile
        size = geometry.size
        blockSize = block
        topology = geometry.topology
        isReadOnly = options.isReadOnly
        isBlockDevice = kind == .blockDevice
        isInMemory = kind == .regular && clinux_is_memory_file(file.rawValue) == 1
        memoryAlignment = alignment.memory
        offsetAlignment = alignment.offset
        canDiscard =
            options.allowsDiscard && !options.isReadOnly
            && (kind == .blockDevice
                ? geometry.canDiscard : Self.canPunchHoles(file.rawValue, beyond: geometry.size))
    }

    /// Closing alone would not do: an io_uring lets go of its files later.
    deinit { clinux_unlock_file(file.rawValue) }

    /// Where the image ends now, in bytes: somebody may have made its file shorter. A block device
    /// says itself what lies behind its end.
    var currentEnd: UInt64 {
        if isBlockDevice { return .max }
        var status = stat()
        // SAFETY: `status` lives for the call.
        return unsafe fstat(file.rawValue, &status) == 0 ? UInt64(clamping: status.st_size) : 0
    }

    /// Whether direct I/O can do a transfer of `count` bytes at `offset`, as far as the file goes.
    @inline(__always)
    func isAligned(offset: UInt64, count: UInt64) -> Bool {
        (offset | count) & (offsetAlignment &- 1) == 0
    }

    /// What to do with an image of QEMU's.
    private static let conversion = "`qemu-img convert -O raw` makes an image of it"

    private static func check(
        _ size: UInt64, blockSize: UInt32, path: String, isForeign: Bool
    ) throws(BlockError) {
        if size == 0 { throw BlockError("image \(path) is empty") }
        let rest = size % UInt64(blockSize)
        if rest != 0, isForeign {
            throw BlockError(
                "image \(path) is a QCOW2 file, of which this program knows nothing; "
                    + conversion)
        }
        if rest != 0 {
            throw BlockError(
                "image \(path) has \(size) bytes, which is no multiple of its block size "
                    + "\(blockSize); `truncate -s %\(blockSize)` would round it up with zeroes")
        }
    }

    /// What QEMU's images begin with. No more than a hint: a guest can write that to its disk, too.
    private static func beginsLikeQCOW2(_ fd: Int32) -> Bool {
        var magic: UInt32 = 0
        // SAFETY: the call fills `magic`, which has as many bytes as it is told.
        let count = unsafe pread(fd, &magic, MemoryLayout<UInt32>.size, 0)
        return count == MemoryLayout<UInt32>.size && UInt32(bigEndian: magic) == 0x5146_49fb
    }

    /// Asks for a hole behind the end, which changes nothing.
    private static func canPunchHoles(_ fd: Int32, beyond size: UInt64) -> Bool {
        let mode = CLINUX_FALLOC_FL_PUNCH_HOLE | CLINUX_FALLOC_FL_KEEP_SIZE
        guard let offset = Int64(exactly: size) else { return false }
        return clinux_fallocate(fd, mode, offset, 4096) == 0
    }
}

/// What holds an image.
private enum FileKind: Equatable {
    case regular
    case blockDevice

    init(_ fd: Int32, path: String) throws(BlockError) {
        var status = stat()
        // SAFETY: `status` lives for the call.
        guard unsafe fstat(fd, &status) == 0 else {
            throw BlockError(
                "cannot examine image \(path): \(SystemError("fstat", errno: errno).reason)")
        }
        switch status.st_mode & S_IFMT {
        case S_IFREG: self = .regular
        case S_IFBLK: self = .blockDevice
        default: throw BlockError("image \(path) is neither a file nor a block device")
        }
    }
}

/// What the host says about an image's shape.
private struct Geometry {
    var size: UInt64
    var logicalBlockSize: UInt32
    var topology: RawImage.Topology
    var isReadOnly = false
    var canDiscard = false

    init(_ fd: Int32, _ kind: FileKind, path: String) throws(BlockError) {
        switch kind {
        case .regular:
            var status = stat()
            // SAFETY: `status` lives for the call.
            guard unsafe fstat(fd, &status) == 0 else {
                throw BlockError(
                    "cannot examine image \(path): \(SystemError("fstat", errno: errno).reason)")
            }
            size = UInt64(clamping: status.st_size)
            logicalBlockSize = 512
            let piece = Self.powerOfTwo(UInt32(clamping: status.st_blksize)) ?? 4096
            let physical = min(max(piece, 512), 4096)
            topology = RawImage.Topology(
                physicalBlockSize: physical, discardGranularity: min(max(piece, 512), 65536))
        case .blockDevice:
            var device = clinux_block_device()
            // SAFETY: `device` lives for the call.
            let result = unsafe clinux_block_describe(fd, &device)
            guard result == 0, let logical = Self.powerOfTwo(device.logical_block_size) else {
                throw BlockError(
                    "cannot examine block device \(path): "
                        + SystemError("ioctl", errno: -result).reason)
            }
            size = device.size
            logicalBlockSize = logical
            isReadOnly = device.is_read_only != 0
            canDiscard = device.can_discard != 0
            topology = RawImage.Topology(
                physicalBlockSize: Self.powerOfTwo(device.physical_block_size) ?? logical,
                alignmentOffset: UInt32(exactly: device.alignment_offset) ?? 0,
                minimumIOSize: device.minimum_io_size, optimalIOSize: device.optimal_io_size,
                discardGranularity: logical)
        }
    }

    static func powerOfTwo(_ value: UInt32) -> UInt32? {
        value.nonzeroBitCount == 1 ? value : nil
    }
}

/// What O_DIRECT asks of transfers; both values are powers of two.
private struct DirectAlignment {
    var memory: UInt64
    var offset: UInt64

    init(memory: UInt64, offset: UInt64) {
        self.memory = memory
        self.offset = offset
    }

    init(_ fd: Int32, _ geometry: Geometry, path: String) throws(BlockError) {
        var memory: UInt32 = 0
        var offset: UInt32 = 0
        // SAFETY: both live for the call.
        let result = unsafe clinux_direct_alignment(fd, &memory, &offset)
        if result == 0 {
            guard memory.nonzeroBitCount == 1, offset.nonzeroBitCount == 1 else {
                throw BlockError("image \(path) is on a file system without direct I/O")
            }
            self.init(memory: UInt64(memory), offset: UInt64(offset))
        } else {
            // Nobody says: what holds for every disk there is.
            let safe = max(UInt64(geometry.topology.physicalBlockSize), 512)
            self.init(memory: safe, offset: safe)
        }
    }
}
