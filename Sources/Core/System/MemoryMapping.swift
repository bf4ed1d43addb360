internal import CLinux
internal import Glibc

/// Memory that is mapped until the last owner is gone.
// SAFETY: the only unsafe storage is the base address; see there.
@safe public final class MemoryMapping: Sendable {
    // SAFETY: the address never changes, and the bytes behind it are shared with other processes
    // anyway; every access says how it deals with that.
    nonisolated(unsafe) public let base: UnsafeMutableRawPointer
    public let size: Int
    /// The number of the guard against the loss of the memory, and whom it tells.
    private let lossGuard: (number: Int32, event: EventFD)?

    private init(_ address: UnsafeMutableRawPointer?, _ size: Int, onLoss event: EventFD? = nil)
        throws(SystemError)
    {
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw SystemError("mmap", errno: errno)
        }
        unsafe base = unsafe address
        self.size = size
        guard let event else {
            lossGuard = nil
            return
        }
        // SAFETY: the memory stays mapped and the event open until the guard is removed.
        let number = unsafe clinux_guard_add(address, size, event.rawValue)
        guard number >= 0 else {
            unsafe munmap(address, size)
            throw SystemError("mmap", errno: -number)
        }
        lossGuard = (number, event)
    }

    /// Maps `size` bytes of `fd` from `offset`, shared, readable and (by default) writable.
    public convenience init(
        sharing fd: Int32, offset: UInt64 = 0, size: Int, isWritable: Bool = true
    ) throws(SystemError) {
        try self.init(sharing: fd, offset: offset, size: size, isWritable: isWritable, onLoss: nil)
    }

    /// - Parameter onLoss: as for `part`; the file may be shorter than the mapping.
    package convenience init(
        sharing fd: Int32, offset: UInt64, size: Int, isWritable: Bool, onLoss: EventFD?
    ) throws(SystemError) {
        guard let offset = Int(exactly: offset), size > 0 else {
            throw SystemError("mmap", errno: EINVAL)
        }
        let protection = isWritable ? PROT_READ | PROT_WRITE : PROT_READ
        // SAFETY: the kernel chooses the place; the result is checked by the initialiser.
        let address = unsafe mmap(nil, size, protection, MAP_SHARED | MAP_NORESERVE, fd, offset)
        try unsafe self.init(address, size, onLoss: onLoss)
    }

    /// Maps `size` bytes of private zeroes, which take memory only once they are touched.
    public convenience init(anonymous size: Int) throws(SystemError) {
        // SAFETY: as above.
        let address = unsafe mmap(
            nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        try unsafe self.init(address, size)
    }

    /// The same, shared and without a file: `clinux_map_again` shows it a second time.
    package convenience init(sharedZeroes size: Int) throws(SystemError) {
        // SAFETY: as above.
        let address = unsafe mmap(
            nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        try unsafe self.init(address, size)
    }

    /// The same for what is filled at once, and soon given back: in large pages where the host has
    /// them, which are a small part of the page faults.
    package convenience init(filling size: Int) throws(SystemError) {
        try self.init(anonymous: size)
        // SAFETY: the range is the whole mapping. Only advice; hosts that cannot do it say no.
        if size >= 2 << 20 { _ = unsafe madvise(base, size, MADV_HUGEPAGE) }
    }

    /// A part of another process's file in memory, at any offset: where the kernel wants mappings
    /// aligned, more is mapped.
    /// - Parameter onLoss: signalled when the memory cannot be touched any more, because its owner
    ///   has made the file shorter, or there is no room for its pages. It then `isLost`: it reads
    ///   as zeroes, and what is written goes nowhere.
    /// - Returns: the mapping and where in it the part begins.
    /// - Throws: `EOVERFLOW` where the file is not that long.
    package static func part(
        of fd: Int32, offset: UInt64, size: UInt64, onLoss: EventFD
    ) throws(SystemError) -> (mapping: MemoryMapping, offset: UInt64) {
        var alignment: UInt64 = 0
        var fileSize: Int64 = 0
        // SAFETY: both results live for the call.
        _ = try checking("fstat", unsafe clinux_file_shape(fd, &alignment, &fileSize))
        let (end, overflow) = offset.addingReportingOverflow(size)
        guard !overflow, end <= UInt64(Int64.max) - alignment else {
            throw SystemError("mmap", errno: EOVERFLOW)
        }
        if fileSize >= 0, end > UInt64(fileSize) { throw SystemError("mmap", errno: EOVERFLOW) }
        let before = offset % alignment
        let length = (before + size + alignment - 1) / alignment * alignment
        let mapping = try MemoryMapping(
            sharing: fd, offset: offset - before, size: Int(truncatingIfNeeded: length),
            isWritable: true, onLoss: onLoss)
        return (mapping, before)
    }

    /// Whether the owner of the memory has taken it away.
    package var isLost: Bool { lossGuard.map { clinux_guard_is_lost($0.number) != 0 } ?? false }

    deinit {
        if let lossGuard { clinux_guard_remove(lossGuard.number) }
        // SAFETY: base and size are what mmap returned, and nobody holds this object any more.
        _ = unsafe munmap(base, size)
    }
}

/// An anonymous file in memory (memfd_create(2)), the form in which memory is shared.
public struct MemFD: ~Copyable, Sendable {
    public let fd: OwnedFD
    public let size: UInt64

    /// Creates a file of `size` zero bytes that nobody can shrink.
    /// - Parameter hugePageShift: 0 for normal pages, 21 or 30 for pages of 2 MiB or 1 GiB.
    public init(name: String, size: UInt64, hugePageShift: UInt32 = 0) throws(SystemError) {
        guard let length = Int(exactly: size) else { throw SystemError("ftruncate", errno: EFBIG) }
        let raw = try checking("memfd_create", unsafe clinux_memfd_create(name, hugePageShift))
        let fd = OwnedFD(owning: raw)
        _ = try retrying("ftruncate") { ftruncate(raw, length) }
        let seals = Int(CLINUX_F_SEAL_SHRINK | CLINUX_F_SEAL_GROW)
        _ = try checking("fcntl", clinux_fcntl(raw, CLINUX_F_ADD_SEALS, seals))
        self.fd = fd
        self.size = size
    }
}
