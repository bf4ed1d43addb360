internal import Glibc

/// The memory of a process by what it is for, read from `/proc/PID/smaps`. All sizes are bytes.
///
///     let memory = try ProcessMemory(of: id)
///     memory[.heap].resident
///     memory.total(but: [.guest, .codeCaches]).privateDirty
public struct ProcessMemory: Sendable {
    /// What a mapping is for.
    public enum Kind: CaseIterable, Sendable {
        /// Code and constants: pages of the executable and of libraries, as they are in the file.
        case text
        /// What programs begin with and change: `.data`, `.bss`, constants with addresses in them.
        case data
        /// The guest's RAM: memory that is shared through a file without a name (memfd).
        case guest
        /// What an emulator of CPUs keeps of the guest: code, decoded or translated, and its TLB.
        case codeCaches
        /// What `malloc` takes from the system, and anonymous memory of other use.
        case heap
        /// Stacks of all threads.
        case stacks
        /// Mappings of the kernel, of devices and of rings.
        case other
    }

    /// Amounts of memory, as `smaps` gives them.
    public struct Sizes: Sendable, Equatable {
        /// Pages that the process has in its page tables (`Rss`).
        public var resident = 0
        /// The same, with a page that n processes have counted as one n-th (`Pss`).
        public var proportional = 0
        /// Pages of files that no other process has now, and that can be read again.
        public var privateClean = 0
        /// Pages that exist for this process only.
        public var privateDirty = 0

        /// What ends with the process, and what it alone keeps of files.
        public var privateAll: Int { privateClean + privateDirty }

        public init() {}

        public static func + (a: Sizes, b: Sizes) -> Sizes {
            var sum = a
            sum.resident += b.resident
            sum.proportional += b.proportional
            sum.privateClean += b.privateClean
            sum.privateDirty += b.privateDirty
            return sum
        }
    }

    /// Why there is nothing to read.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// A mapping, for tests that look closer.
    public struct Mapping: Sendable {
        public let start: UInt64
        public let end: UInt64
        public let permissions: String
        /// A file's path, a name such as `[heap]`, or nothing.
        public let name: String
        public internal(set) var sizes = Sizes()
        public internal(set) var kind = Kind.other
        /// Bytes that are no file's, because they were changed, or never a file's.
        var anonymous = 0
        /// Of `VmFlags`: no swap space is set aside for it, as for large reservations.
        var isUnreserved = false
    }

    /// All mappings, by address.
    public let mappings: [Mapping]

    /// Reads the memory of a process that runs.
    public init(of process: Int32) throws(Failure) {
        let path = "/proc/\(process)/smaps"
        guard let text = Self.read(path), !text.isEmpty else {
            throw Failure(description: "\(path) cannot be read: has the process ended?")
        }
        self.init(smaps: text)
    }

    /// Reads the content of a `smaps` file.
    public init(smaps: String) {
        var mappings: [Mapping] = []
        for line in smaps.split(separator: "\n") {
            if let mapping = Mapping(line) {
                mappings.append(mapping)
            } else if !mappings.isEmpty {
                mappings[mappings.count - 1].take(line)
            }
        }
        for index in mappings.indices {
            let before = index > 0 ? mappings[index - 1] : nil
            mappings[index].kind = mappings[index].kind(after: before)
        }
        self.mappings = mappings
    }

    /// The sum of the mappings of one kind.
    public subscript(kind: Kind) -> Sizes {
        mappings.reduce(Sizes()) { $1.kind == kind ? $0 + $1.sizes : $0 }
    }

    /// The sum of all mappings, without those of some kinds.
    public func total(but left: Set<Kind> = []) -> Sizes {
        mappings.reduce(Sizes()) { left.contains($1.kind) ? $0 : $0 + $1.sizes }
    }

    /// The content of a file that says nothing of its length; `nil` where it cannot be read.
    static func read(_ path: String) -> String? {
        let fd = unsafe open(path, O_RDONLY)
        guard fd >= 0 else { return nil }
        defer { close(fd) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65536)
        while true {
            // SAFETY: the array lives for the call and has that size.
            let count = unsafe Glibc.read(fd, &piece, piece.count)
            guard count >= 0 else { return nil }
            if count == 0 { return String(decoding: bytes, as: UTF8.self) }
            bytes += piece[..<count]
        }
    }
}

extension ProcessMemory.Mapping {
    /// The first line of a mapping: range, permissions, offset, device, inode, name.
    fileprivate init?(_ line: Substring) {
        let fields = line.split(separator: " ", maxSplits: 5)
        let range = fields[0].split(separator: "-")
        guard fields.count >= 5, range.count == 2, let start = UInt64(range[0], radix: 16),
            let end = UInt64(range[1], radix: 16)
        else { return nil }
        let name = fields.count > 5 ? fields[5].drop { $0 == " " } : ""
        self.init(
            start: start, end: end, permissions: String(fields[1]), name: String(name))
    }

    private init(start: UInt64, end: UInt64, permissions: String, name: String) {
        self.start = start
        self.end = end
        self.permissions = permissions
        self.name = name
    }

    /// A further line: a name, a number of KiB.
    fileprivate mutating func take(_ line: Substring) {
        let fields = line.split(separator: " ")
        guard fields.count > 1 else { return }
        let bytes = (Int(fields[1]) ?? 0) << 10
        switch fields[0] {
        case "Rss:": sizes.resident = bytes
        case "Pss:": sizes.proportional = bytes
        case "Private_Clean:": sizes.privateClean = bytes
        case "Private_Dirty:": sizes.privateDirty = bytes
        case "Anonymous:": anonymous = bytes
        case "VmFlags:": isUnreserved = fields.contains("nr")
        default: break
        }
    }

    fileprivate func kind(after before: Self?) -> ProcessMemory.Kind {
        let neighbour = before?.end == start ? before : nil
        if name.isEmpty { return anonymousKind(after: neighbour) }
        if name == "[heap]" { return .heap }
        if name == "[stack]" { return .stacks }
        if name.hasPrefix("/memfd:") { return memfdKind }
        guard name.hasPrefix("/"), !name.hasPrefix("/dev/") else { return .other }
        // Constants with addresses in them are changed once and then protected.
        return permissions.contains("w") || anonymous > 0 ? .data : .text
    }

    private var memfdKind: ProcessMemory.Kind {
        if name.contains("code") || permissions.contains("x") { return .codeCaches }
        return name.contains("inflight") ? .other : .guest
    }

    private func anonymousKind(after neighbour: Self?) -> ProcessMemory.Kind {
        // `.bss` follows its file's last page.
        if let neighbour, neighbour.kind == .data, neighbour.name.hasPrefix("/") { return .data }
        if permissions.contains("x") { return .codeCaches }
        // Below a thread's stack is a page that nobody may touch.
        if let neighbour, neighbour.permissions.hasPrefix("---"), !isUnreserved { return .stacks }
        // The C library's own large reservations are thread arenas, aligned to their size.
        let isArena = start % (64 << 20) == 0
        return isUnreserved && !isArena && end - start >= 1 << 20 ? .codeCaches : .heap
    }
}
