internal import CLinux
internal import CNUMA
internal import Glibc

/// The size of the pages behind guest memory.
public enum GuestPageSize: Equatable, Sendable {
    /// 4 KiB pages, which the kernel may join to larger ones where it is set up to do so.
    case normal
    /// Pages of 2 MiB or 1 GiB from the host's pool, reserved as a whole.
    case huge2M, huge1G

    /// The logarithm of the size.
    var shift: UInt32 {
        switch self {
        case .normal: 12
        case .huge2M: 21
        case .huge1G: 30
        }
    }
}

/// On which of the host's NUMA nodes guest memory is to be allocated (mbind(2)).
public struct GuestMemoryPlacement: Equatable, Sendable {
    public enum Policy: Equatable, Sendable {
        /// Only there.
        case bind
        /// There, as long as there is room. Takes one node.
        case preferred
        /// In turns, page by page.
        case interleave
    }

    public var policy: Policy
    /// Node numbers of the host.
    public var nodes: [UInt32]

    public init(policy: Policy, nodes: [UInt32]) {
        self.policy = policy
        self.nodes = nodes
    }
}

/// A range of guest-physical addresses that is to be memory.
public struct GuestMemoryWindow: Equatable, Sendable {
    public var start: GuestAddress
    public var size: UInt64

    public init(start: GuestAddress, size: UInt64) {
        self.start = start
        self.size = size
    }
}

/// What guest memory is made of.
public struct GuestMemoryOptions: Equatable, Sendable {
    public var pageSize = GuestPageSize.normal
    public var placement: GuestMemoryPlacement?
    /// Whether all memory is allocated before the guest starts.
    public var prefault = false

    public init(
        pageSize: GuestPageSize = .normal, placement: GuestMemoryPlacement? = nil,
        prefault: Bool = false
    ) {
        self.pageSize = pageSize
        self.placement = placement
        self.prefault = prefault
    }
}

/// Why the host cannot provide the guest's memory as it was asked for.
public enum GuestMemoryBackingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// There is nothing to provide, or more than can be addressed.
    case size(UInt64)
    /// A window's start or size is not a multiple of the page size.
    case misalignedWindow(GuestMemoryWindow, pageSize: UInt64)
    case overlap(GuestAddress)
    /// The host does not know huge pages of this size, or its pool has too few free ones.
    case noHugePages(needed: UInt64, free: UInt64?, pageSize: UInt64)
    /// The host's kernel does not support NUMA policies.
    case noNUMA
    case noSuchNode(UInt32)
    /// A policy with no node, or `preferred` with several.
    case nodeCount(Int, GuestMemoryPlacement.Policy)
    case system(SystemError)

    public var description: String {
        switch self {
        case .size(let size): "\(size) bytes is not a possible size of guest memory"
        case .misalignedWindow(let window, let pageSize):
            "guest memory at \(window.start), \(window.size) bytes, is not made of pages of "
                + "\(pageSize) bytes"
        case .overlap(let address): "two ranges of guest memory overlap at \(address)"
        case .noHugePages(let needed, let free?, let pageSize):
            "guest memory needs \(needed) huge pages of \(pageSize >> 20) MiB, and the host has "
                + "\(free) free ones (see /proc/sys/vm/nr_hugepages)"
        case .noHugePages(_, nil, let pageSize):
            "the host has no huge pages of \(pageSize >> 20) MiB"
        case .noNUMA: "the host does not support NUMA policies"
        case .noSuchNode(let node): "the host has no NUMA node \(node)"
        case .nodeCount(let count, let policy):
            "the NUMA policy \(policy) does not take \(count) nodes"
        case .system(let error): "guest memory: \(error)"
        }
    }
}

/// The guest's memory as this process makes it: one memory file (memfd_create(2)) that is cut into
/// the windows in the order of their addresses, mapped once, and described to other processes by
/// the regions' `file` and `fileOffset`.
public struct GuestMemoryBacking: Sendable {
    public let memory: GuestMemory
    /// All windows, one after the other.
    public let file: SharedFD
    public let size: UInt64

    /// Allocates memory for `windows`.
    ///
    /// Memory takes room on the host when it is first touched, except with `prefault`. Huge pages
    /// are reserved at once, so that the guest cannot run out of them. A NUMA policy belongs to the
    /// file: it holds for every process that maps it.
    public init(
        _ windows: [GuestMemoryWindow], options: GuestMemoryOptions = GuestMemoryOptions()
    ) throws(GuestMemoryBackingError) {
        let sorted = windows.sorted { $0.start < $1.start }
        let pageSize = UInt64(1) << UInt64(options.pageSize.shift)
        let total = try Self.check(sorted, pageSize: pageSize)
        let file = try Self.makeFile(total, options.pageSize)
        let mapping: MemoryMapping
        do {
            mapping = try MemoryMapping(sharing: file.rawValue, size: Int(total))
        } catch { throw .system(error) }
        if let placement = options.placement { try Self.place(mapping, placement) }
        if options.pageSize == .normal {
            // SAFETY: the range is the whole mapping. Only advice; hosts that cannot do it say no.
            _ = unsafe madvise(mapping.base, mapping.size, MADV_HUGEPAGE)
        }
        if options.prefault { try Self.prefault(mapping) }

        var regions: [GuestRegion] = []
        var offset: UInt64 = 0
        for window in sorted {
            guard
                let region = GuestRegion(
                    start: window.start, size: window.size, mapping: mapping,
                    mappingOffset: offset, file: file, fileOffset: offset)
            else { throw .misalignedWindow(window, pageSize: pageSize) }
            regions.append(region)
            offset += window.size
        }
        do { memory = try GuestMemory(regions) } catch {
            switch error {
            case .overlap(let address), .outOfRange(let address, _): throw .overlap(address)
            }
        }
        self.file = file
        size = total
    }

    /// Checks the windows, in order, and adds up their sizes.
    private static func check(
        _ windows: [GuestMemoryWindow], pageSize: UInt64
    ) throws(GuestMemoryBackingError) -> UInt64 {
        var total: UInt64 = 0
        for window in windows {
            guard window.size > 0, window.size % pageSize == 0,
                window.start.rawValue % pageSize == 0,
                window.start.advanced(by: window.size - 1) != nil
            else { throw .misalignedWindow(window, pageSize: pageSize) }
            let (sum, overflow) = total.addingReportingOverflow(window.size)
            guard !overflow, sum <= UInt64(Int.max) else { throw .size(UInt64.max) }
            total = sum
        }
        guard total > 0 else { throw .size(0) }
        for (lower, upper) in zip(windows, windows.dropFirst())
        where upper.start.rawValue - lower.start.rawValue < lower.size {
            throw .overlap(upper.start)
        }
        return total
    }

    // MARK: Pages

    private static func makeFile(
        _ size: UInt64, _ pageSize: GuestPageSize
    ) throws(GuestMemoryBackingError) -> SharedFD {
        let isHuge = pageSize != .normal
        let file: MemFD
        do {
            file = try MemFD(
                name: "guest-memory", size: size, hugePageShift: isHuge ? pageSize.shift : 0)
        } catch {
            // The kernel's answer where it has no pool for this size.
            let isMissing = error.call == "memfd_create" && isHuge
            throw isMissing ? noHugePages(size, pageSize) : .system(error)
        }
        let fd: SharedFD
        do { fd = SharedFD(try file.fd.duplicate()) } catch { throw .system(error) }
        if isHuge, !reserve(fd.rawValue, Int(size)) { throw noHugePages(size, pageSize) }
        return fd
    }

    /// Takes huge pages out of the pool. A mapping without MAP_NORESERVE does that for the file,
    /// and the reservation outlives it. Without, a page fault would end in SIGBUS.
    private static func reserve(_ fd: Int32, _ size: Int) -> Bool {
        // SAFETY: the kernel chooses the place, nothing refers to it, and it is unmapped at once.
        let address = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else { return false }
        _ = unsafe munmap(address, size)
        return true
    }

    private static func noHugePages(
        _ size: UInt64, _ pageSize: GuestPageSize
    ) -> GuestMemoryBackingError {
        let bytes = UInt64(1) << UInt64(pageSize.shift)
        return .noHugePages(
            needed: size / bytes, free: freeHugePages(bytes >> 10), pageSize: bytes)
    }

    /// Free pages in the host's pool; `nil` where there is no such pool.
    package static func freeHugePages(_ kibibytes: UInt64) -> UInt64? {
        let path = "/sys/kernel/mm/hugepages/hugepages-\(kibibytes)kB/free_hugepages"
        // SAFETY: the path and the buffer live for the calls.
        let raw = unsafe clinux_open(path, O_RDONLY, 0)
        guard raw >= 0 else { return nil }
        let fd = OwnedFD(owning: raw)
        var digits = [UInt8](repeating: 0, count: 32)
        let count = unsafe digits.withUnsafeMutableBytes { buffer in
            unsafe read(fd.rawValue, buffer.baseAddress, buffer.count)
        }
        guard count > 0 else { return nil }
        return UInt64(String(decoding: digits.prefix { $0 > 0x20 }, as: UTF8.self))
    }

    /// Allocates every page now.
    private static func prefault(_ mapping: MemoryMapping) throws(GuestMemoryBackingError) {
        // SAFETY: the range is the whole mapping; populating changes no contents.
        while unsafe madvise(mapping.base, mapping.size, MADV_POPULATE_WRITE) != 0 {
            let code = errno
            if code != EINTR && code != EAGAIN {
                throw .system(SystemError("madvise", errno: code))
            }
        }
    }

    // MARK: Nodes

    /// Sets the policy of the file's pages, none of which is allocated yet.
    private static func place(
        _ mapping: MemoryMapping, _ placement: GuestMemoryPlacement
    ) throws(GuestMemoryBackingError) {
        cnuma_start()
        guard numa_available() >= 0 else { throw .noNUMA }
        let isOne = placement.nodes.count == 1
        guard isOne || (placement.policy != .preferred && !placement.nodes.isEmpty) else {
            throw .nodeCount(placement.nodes.count, placement.policy)
        }
        let highest = numa_max_node()
        guard highest >= 0 else { throw .noNUMA }
        // SAFETY: the library allocates the mask for us, and it is freed once.
        guard let allowed = unsafe numa_get_mems_allowed() else { throw .noNUMA }
        defer { unsafe numa_bitmask_free(allowed) }
        let bitsPerWord = UInt32(UInt.bitWidth)
        var mask = [UInt](repeating: 0, count: Int(highest) / UInt.bitWidth + 1)
        for node in placement.nodes {
            guard node <= UInt32(highest), unsafe numa_bitmask_isbitset(allowed, node) != 0
            else { throw .noSuchNode(node) }
            mask[Int(node / bitsPerWord)] |= 1 << UInt(node % bitsPerWord)
        }
        let mode =
            switch placement.policy {
            case .bind: MPOL_BIND
            case .preferred: MPOL_PREFERRED
            case .interleave: MPOL_INTERLEAVE
            }
        // One more than there are bits: the kernel takes the count minus one.
        let bitCount = UInt(mask.count * UInt.bitWidth + 1)
        // SAFETY: the range is the whole mapping, the mask is alive for the call and of that size.
        let result = unsafe mask.withUnsafeBufferPointer { words in
            unsafe mbind(
                mapping.base, UInt(mapping.size), Int32(mode), words.baseAddress, bitCount, 0)
        }
        if result != 0 { throw .system(SystemError("mbind", errno: errno)) }
    }
}
