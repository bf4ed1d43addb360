internal import CLinux
internal import Glibc

/// What is wrong with a request to change a window; a sentence's end for the log.
package enum WindowError: Error, Equatable, Sendable, CustomStringConvertible {
    case range(offset: UInt64, size: UInt64)
    /// Not a regular file with pages of 4 KiB, so that what happens at its end is known.
    case file
    /// Its file system is not a local one (WindowFile.swift).
    case fileSystem(String)
    case tooMany
    /// All windows together have as many mappings as they may.
    case noMappings(limit: Int)
    case system(SystemError)

    package var description: String {
        switch self {
        case .range(let offset, let size):
            "\(size) bytes at offset 0x\(String(offset, radix: 16)) are not whole pages inside it"
        case .file: "what is to be mapped is not a regular file with pages of 4 KiB"
        case .fileSystem(let name):
            "the file lies on a file system (\(name)) that does not have its pages on a disk of this"
                + " host, so that a processor might wait for them for ever; only files of local file"
                + " systems can be shown"
        case .tooMany: "it consists of too many pieces"
        case .noMappings(let limit):
            "the windows of all devices have used up the \(limit) mappings that there are for them;"
                + " have fewer devices with windows, or smaller ones"
        case .system(let error): "\(error)"
        }
    }
}

/// Memory of the guest's that shows parts of files (VIRTIO 1.3, section 2.10): a place in this
/// process that stays the same, into which a device's back end has pieces of its files mapped.
///
/// Whatever the guest does with it, no access fails. Where nothing is mapped there are zeroes, and
/// what is written there is the guest's own, until something beside it is taken away. What is mapped
/// for reading only is copied when it is written to. Pages that are not there, because a file has
/// become shorter or its file system is full, become zeroes when they are touched (CLinux/window.c),
/// until something is mapped there again; when there are very many of such pages, 2 MiB at once.
/// Memory is used only as far as the guest writes, and no more than the window has.
// SAFETY: `base` is a reservation of `size` bytes that stays mapped as long as this object lives.
// Other threads, processors and processes access it while it changes.
@safe public final class SharedWindow: Sendable {
    /// The unit of all mappings, in bytes.
    package static let pageSize: UInt64 = 4096
    /// How many pieces the window may consist of.
    package let maximumPieces: Int
    /// Windows are placed so that the host may use large pages.
    private static let alignment = 2 << 20

    /// The first byte.
    // SAFETY: as at the type.
    nonisolated(unsafe) public let base: UnsafeMutableRawPointer
    /// A multiple of `pageSize`.
    public let size: UInt64
    // SAFETY: what mmap returned.
    nonisolated(unsafe) private let reservation: UnsafeMutableRawPointer
    private let reservedSize: Int
    // SAFETY: made and ended with this object.
    nonisolated(unsafe) private let guarded: OpaquePointer
    private let budget: MappingBudget
    /// Signalled when pages became zeroes because there was nothing behind them.
    package let lossEvent: EventFD
    private let pieces: Lock<WindowPieces>

    /// - Parameters:
    ///   - size: a positive multiple of `pageSize`.
    ///   - budget: what mappings are taken from.
    package init(size: UInt64, budget: MappingBudget = .process) throws(SystemError) {
        guard size > 0, size % Self.pageSize == 0, let count = Int(exactly: size),
            count <= Int.max - Self.alignment
        else { throw SystemError("mmap", errno: EINVAL) }
        lossEvent = try EventFD()
        self.budget = budget
        pieces = Lock(WindowPieces(size: size))
        // As many as Linux's driver makes, which are of 2 MiB, but for very large windows.
        maximumPieces = Int(min(max(size >> 21, 4096), 16384))
        reservedSize = count + Self.alignment
        // SAFETY: the kernel chooses the place, and the result is checked.
        let address = unsafe mmap(
            nil, reservedSize, PROT_READ | PROT_WRITE, Self.emptyFlags, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw SystemError("mmap", errno: errno)
        }
        unsafe reservation = unsafe address
        let misplaced = Int(bitPattern: address) & (Self.alignment - 1)
        unsafe base = unsafe address + (misplaced == 0 ? 0 : Self.alignment - misplaced)
        self.size = size
        // SAFETY: the memory stays mapped, and the event and the budget alive, until it is ended.
        let new = unsafe clinux_window_add(base, count, lossEvent.rawValue, budget.left)
        guard let new = unsafe new else {
            unsafe munmap(reservation, reservedSize)
            throw SystemError("mmap", errno: ENOSPC)
        }
        unsafe guarded = unsafe new
    }

    deinit {
        // SAFETY: nobody holds this object any more.
        unsafe clinux_window_remove(guarded)
        _ = unsafe munmap(reservation, reservedSize)
    }

    private static let emptyFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE

    /// What the file system is called on which a folder lies, if none of its files can be shown because
    /// it is not a local one (WindowFile.swift).
    package static func foreignFileSystem(_ folder: SharedFD) -> String? {
        WindowFile.foreignFileSystem(folder.rawValue)
    }

    /// Shows a part of a file, in the place of what was there; at no time is there something else.
    /// - Parameters:
    ///   - fileOffset: a multiple of `pageSize`, as are `offset` and `size`.
    ///   - isWritable: what the guest writes goes to the file.
    package func map(
        _ fd: Int32, from fileOffset: UInt64, at offset: UInt64, size: UInt64, isWritable: Bool
    ) throws(WindowError) {
        try check(offset, size)
        guard fileOffset % Self.pageSize == 0, fileOffset <= UInt64(Int64.max) - size else {
            throw .range(offset: fileOffset, size: size)
        }
        try WindowFile.check(fd)
        let flags = (isWritable ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE
        try pieces.withLock { pieces throws(WindowError) in
            let change = pieces.replacing(offset, size, isMapped: true)
            try allow(change, of: pieces)
            try put(fd, Int(fileOffset), offset..<offset + size, flags, change)
            pieces.apply(change)
        }
    }

    /// Takes away what is shown in a range, and what the guest has written beside it where nothing is
    /// shown: all that is empty there is one mapping again, however it came about.
    package func unmap(at offset: UInt64, size: UInt64) throws(WindowError) {
        try check(offset, size)
        try pieces.withLock { pieces throws(WindowError) in
            let change = pieces.replacing(offset, size, isMapped: false)
            try allow(change, of: pieces)
            try put(-1, 0, change.emptied, Self.emptyFlags, change)
            pieces.apply(change)
        }
    }

    /// Takes everything away, and what the guest has written.
    package func clear() throws(WindowError) { try unmap(at: 0, size: size) }

    /// How many pieces there are.
    package var pieceCount: Int { pieces.withLock { $0.count } }

    /// How many single pages and pieces of 2 MiB have become zeroes, and are still there.
    package var lost: (pages: Int, blocks: Int) {
        var (pages, blocks): (Int32, Int32) = (0, 0)
        // SAFETY: both results live for the call.
        unsafe clinux_window_mended(guarded, &pages, &blocks)
        return (Int(pages), Int(blocks))
    }

    private func allow(
        _ change: WindowPieces.Change, of pieces: WindowPieces
    ) throws(WindowError) {
        guard change.pieces <= max(maximumPieces, pieces.count) else { throw .tooMany }
    }

    private func check(_ offset: UInt64, _ size: UInt64) throws(WindowError) {
        guard offset % Self.pageSize == 0, size % Self.pageSize == 0, size > 0,
            offset < self.size, size <= self.size - offset
        else { throw .range(offset: offset, size: size) }
    }

    private func put(
        _ fd: Int32, _ fileOffset: Int, _ place: Range<UInt64>, _ flags: Int32,
        _ change: WindowPieces.Change
    ) throws(WindowError) {
        // SAFETY: the range lies in the reservation; see the type.
        let code = unsafe clinux_window_map(
            guarded, Int(place.lowerBound), Int(place.upperBound - place.lowerBound), flags, fd,
            Int64(fileOffset), Int32(clamping: change.mappings))
        switch -code {
        case 0: return
        case EDQUOT: throw .noMappings(limit: budget.limit)
        default: throw .system(SystemError("mmap", errno: -code))
        }
    }

    /// Reads up to 8 bytes, all in the window, for a processor that cannot.
    public func load(_ offset: UInt64, size count: Int) -> UInt64? {
        guard (1...8).contains(count), offset < size, UInt64(count) <= size - offset else {
            return nil
        }
        var value: UInt64 = 0
        // SAFETY: the bytes lie in the window, which is guarded.
        unsafe memcpy(&value, base + Int(offset), count)
        return value
    }

    /// Writes up to 8 bytes, likewise.
    /// - Returns: whether they lie in the window.
    public func store(_ offset: UInt64, size count: Int, _ value: UInt64) -> Bool {
        guard (1...8).contains(count), offset < size, UInt64(count) <= size - offset else {
            return false
        }
        var value = value
        // SAFETY: as above.
        unsafe memcpy(base + Int(offset), &value, count)
        return true
    }

    /// What came of `touch`.
    public enum Touch: Sendable {
        /// There was nothing, and now there are zeroes.
        case mended
        /// The page could be reached.
        case reached
        /// The offset is not in the window.
        case outside
    }

    /// Makes a page that cannot be reached one of zeroes: a processor that has met one does not come
    /// upon the guard by itself.
    public func touch(_ offset: UInt64) -> Touch {
        guard offset < size else { return .outside }
        // SAFETY: the byte lies in the window, which is guarded.
        return unsafe clinux_window_touch(base + Int(offset)) != 0 ? .mended : .reached
    }
}
