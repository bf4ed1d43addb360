internal import CLinux
internal import Glibc

/// What is wrong with a request to change a window; a sentence's end for the log.
package enum WindowError: Error, Equatable, Sendable, CustomStringConvertible {
    case range(offset: UInt64, size: UInt64)
    /// Not a regular file with pages of 4 KiB, so that what happens at its end is known.
    case file
    case tooMany
    case system(SystemError)

    package var description: String {
        switch self {
        case .range(let offset, let size):
            "\(size) bytes at offset 0x\(String(offset, radix: 16)) are not whole pages inside it"
        case .file: "what is to be mapped is not a regular file with pages of 4 KiB"
        case .tooMany: "it consists of too many pieces"
        case .system(let error): "\(error)"
        }
    }
}

/// Memory of the guest's that shows parts of files (VIRTIO 1.3, section 2.10): a place in this
/// process that stays the same, into which a device's back end has pieces of its files mapped.
///
/// Whatever the guest does with it, no access fails. Where nothing is mapped there are zeroes, and
/// what is written there is the guest's own. What is mapped for reading only is copied when it is
/// written to. Pages that are not there, because a file has become shorter or its file system is
/// full, become zeroes when they are touched (CLinux/guard.c), until something is mapped there again.
/// Memory is used only as far as the guest writes, and no more than the window has.
// SAFETY: `base` is a reservation of `size` bytes that stays mapped as long as this object lives.
// Other threads, processors and processes access it while it changes.
@safe public final class SharedWindow: Sendable {
    /// The unit of all mappings, in bytes.
    package static let pageSize: UInt64 = 4096
    /// How many single pages may become zeroes before all of the window does.
    private static let lostPages: Int32 = 512
    /// How many pieces the window may consist of: a process has 65530 mappings on Linux.
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
    private let lossGuard: Int32
    /// Signalled when pages became zeroes because there was nothing behind them.
    package let lossEvent: EventFD
    private let pieces = Lock(PieceList())

    /// - Parameter size: a positive multiple of `pageSize`.
    package init(size: UInt64) throws(SystemError) {
        guard size > 0, size % Self.pageSize == 0, let count = Int(exactly: size),
            count <= Int.max - Self.alignment
        else { throw SystemError("mmap", errno: EINVAL) }
        lossEvent = try EventFD()
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
        // SAFETY: the memory stays mapped and the event open until the guard is removed.
        lossGuard = unsafe clinux_guard_add_pages(base, count, lossEvent.rawValue, Self.lostPages)
        guard lossGuard >= 0 else {
            unsafe munmap(reservation, reservedSize)
            throw SystemError("mmap", errno: -lossGuard)
        }
    }

    deinit {
        clinux_guard_remove(lossGuard)
        // SAFETY: nobody holds this object any more.
        _ = unsafe munmap(reservation, reservedSize)
    }

    private static let emptyFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE

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
        var alignment: UInt64 = 0
        var fileSize: Int64 = -1
        // SAFETY: both results live for the call.
        guard unsafe clinux_file_shape(fd, &alignment, &fileSize) == 0, fileSize >= 0,
            alignment == Self.pageSize
        else { throw .file }
        let sharing = isWritable ? MAP_SHARED : MAP_PRIVATE
        try pieces.withLock { pieces throws(WindowError) in
            guard pieces.canReplace(offset, size, limit: maximumPieces) else { throw .tooMany }
            try put(fd, Int(fileOffset), offset, size, flags: sharing | MAP_NORESERVE)
            pieces.replace(offset, size, isMapped: true)
        }
    }

    /// Takes away what is shown in a range.
    package func unmap(at offset: UInt64, size: UInt64) throws(WindowError) {
        try check(offset, size)
        try pieces.withLock { pieces throws(WindowError) in
            guard pieces.canReplace(offset, size, limit: maximumPieces) else { throw .tooMany }
            try put(-1, 0, offset, size, flags: Self.emptyFlags)
            pieces.replace(offset, size, isMapped: false)
        }
    }

    /// Takes everything away, and what the guest has written.
    package func clear() throws(WindowError) {
        try pieces.withLock { pieces throws(WindowError) in
            try put(-1, 0, 0, size, flags: Self.emptyFlags)
            pieces = PieceList()
            clinux_guard_renew(lossGuard, Self.lostPages)
        }
    }

    /// How many pieces there are.
    package var pieceCount: Int { pieces.withLock { $0.count } }

    private func check(_ offset: UInt64, _ size: UInt64) throws(WindowError) {
        guard offset % Self.pageSize == 0, size % Self.pageSize == 0, size > 0,
            offset < self.size, size <= self.size - offset
        else { throw .range(offset: offset, size: size) }
    }

    private func put(
        _ fd: Int32, _ fileOffset: Int, _ offset: UInt64, _ size: UInt64, flags: Int32
    ) throws(WindowError) {
        // SAFETY: the range lies in the reservation; see the type.
        let code = unsafe clinux_map_over(
            base + Int(offset), Int(size), flags, fd, Int64(fileOffset))
        if code != 0 { throw .system(SystemError("mmap", errno: -code)) }
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

    /// Makes a page that cannot be reached one of zeroes: a processor that has met one does not come
    /// upon the guard by itself.
    /// - Returns: whether the offset lies in the window.
    public func touch(_ offset: UInt64) -> Bool {
        guard offset < size else { return false }
        // SAFETY: the byte lies in the window, which is guarded.
        unsafe clinux_guard_touch(base + Int(offset))
        return true
    }
}

/// What is mapped where: pieces in the order of their places, which do not overlap.
private struct PieceList {
    private struct Piece {
        var start: UInt64
        var end: UInt64
    }

    private var pieces: [Piece] = []

    var count: Int { pieces.count }

    /// The pieces that have something in a range.
    private func overlapping(_ start: UInt64, _ end: UInt64) -> Range<Int> {
        let first = pieces.prefixCount { $0.end <= start }
        return first..<max(first, pieces.prefixCount { $0.start < end })
    }

    /// Whether there may be the pieces that come of a change: one more, and one that is split.
    func canReplace(_ start: UInt64, _ size: UInt64, limit: Int) -> Bool {
        if pieces.count + 2 <= limit { return true }
        let range = overlapping(start, start + size)
        guard let first = range.first, let last = range.last else { return false }
        return pieces[first].start >= start && pieces[last].end <= start + size
    }

    mutating func replace(_ start: UInt64, _ size: UInt64, isMapped: Bool) {
        let end = start + size
        let range = overlapping(start, end)
        var new: [Piece] = []
        if let first = range.first, pieces[first].start < start {
            new.append(Piece(start: pieces[first].start, end: start))
        }
        if isMapped { new.append(Piece(start: start, end: end)) }
        if let last = range.last, pieces[last].end > end {
            new.append(Piece(start: end, end: pieces[last].end))
        }
        pieces.replaceSubrange(range, with: new)
    }
}
