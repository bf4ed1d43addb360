/// A 64-bit x86 ELF executable: a `vmlinux`, or any other kernel that says where it wants to be.
struct ELFImage {
    /// A part of the file to be loaded.
    struct Segment: Equatable {
        let offset: Int
        let fileSize: Int
        let address: UInt64
        let memorySize: UInt64

        var end: UInt64 { address + memorySize }
    }

    /// What may not be loaded: nothing that comes in a file needs more.
    static let memoryLimit: UInt64 = 4 << 30
    /// Kernels have about ten parts and a few hundred bytes of notes. More would only cost time.
    private static let partLimit = 128
    private static let noteLimit = 64 << 10

    let segments: [Segment]
    /// The physical address of the 64-bit entry.
    let entry: UInt64
    /// The physical address of the 32-bit PVH entry, if the kernel has one.
    let pvhEntry: UInt32?

    static func isELF(_ image: ImageBytes) -> Bool { image.matches([0x7f, 0x45, 0x4c, 0x46]) }

    private static let truncated = BootError("it is truncated or damaged")

    /// The file's own header: its entry, and where the table of its parts is.
    private struct Header {
        let start: UInt64
        let tableOffset: Int
        let entrySize: Int
        let count: Int

        init(_ image: ImageBytes) throws(BootError) {
            // 64-bit, little-endian; EM_X86_64.
            guard image.matches([0x7f, 0x45, 0x4c, 0x46, 2, 1]),
                image.load(18, as: UInt16.self) == 62
            else { throw BootError("it is an ELF file, but not for 64-bit x86") }
            guard let start = image.load(24, as: UInt64.self),
                let tableOffset = image.load(32, as: UInt64.self).flatMap({ Int(exactly: $0) }),
                let entrySize = image.load(54, as: UInt16.self).map(Int.init),
                let count = image.load(56, as: UInt16.self).map(Int.init)
            else { throw truncated }
            guard entrySize >= 56, count > 0 else {
                throw BootError("it is an ELF file without parts to load")
            }
            guard count <= partLimit else {
                throw BootError("it has \(count) parts, more than \(partLimit)")
            }
            guard image.contains(tableOffset, entrySize * count) else { throw truncated }
            self.start = start
            self.tableOffset = tableOffset
            self.entrySize = entrySize
            self.count = count
        }
    }

    /// Reads the headers (System V ABI, "Object Files").
    init(_ image: ImageBytes) throws(BootError) {
        let table = try Header(image)
        let start = table.start
        var segments: [Segment] = []
        var entry: UInt64?
        var pvhEntry: UInt32?
        for index in 0..<table.count {
            let header = table.tableOffset + index * table.entrySize
            switch image.load(header, as: UInt32.self) {
            case 1:  // PT_LOAD
                let segment = try Self.segment(image, header)
                let virtual = image.load(header + 16, as: UInt64.self) ?? 0
                // The entry may be named by its virtual address.
                if start >= virtual, start - virtual < segment.memorySize, entry == nil {
                    entry = segment.address + (start - virtual)
                }
                if segment.memorySize > 0 { segments.append(segment) }
            case 4:  // PT_NOTE
                pvhEntry = pvhEntry ?? Self.pvhEntry(image, header)
            default: break
            }
        }
        if segments.contains(where: { start >= $0.address && start < $0.end }) {
            self.entry = start
        } else if let entry {
            self.entry = entry
        } else {
            throw BootError("its entry is not in any part of it that is loaded")
        }
        guard segments.reduce(0, { $0 + $1.memorySize }) <= Self.memoryLimit else {
            throw BootError("its parts are larger than 4 GiB together")
        }
        self.segments = segments
        self.pvhEntry = pvhEntry
    }

    private static func segment(_ image: ImageBytes, _ header: Int) throws(BootError) -> Segment {
        guard let offset = image.load(header + 8, as: UInt64.self).flatMap({ Int(exactly: $0) }),
            let address = image.load(header + 24, as: UInt64.self),
            let fileSize = image.load(header + 32, as: UInt64.self).flatMap({ Int(exactly: $0) }),
            let memorySize = image.load(header + 40, as: UInt64.self),
            fileSize == 0 || image.contains(offset, fileSize), UInt64(fileSize) <= memorySize
        else { throw truncated }
        guard memorySize <= memoryLimit, address <= memoryLimit else {
            throw BootError("it wants to be loaded above 4 GiB, which is not supported")
        }
        return Segment(
            offset: offset, fileSize: fileSize, address: address, memorySize: memorySize)
    }

    /// Finds the note of type 18 (XEN_ELFNOTE_PHYS32_ENTRY) by "Xen" in a PT_NOTE segment.
    private static func pvhEntry(_ image: ImageBytes, _ header: Int) -> UInt32? {
        guard let start = image.load(header + 8, as: UInt64.self).flatMap({ Int(exactly: $0) }),
            let size = image.load(header + 32, as: UInt64.self).flatMap({ Int(exactly: $0) }),
            size <= noteLimit, image.contains(start, size)
        else { return nil }
        var position = start
        let end = start + size
        while end - position >= 12, let nameSize = image.load(position, as: UInt32.self),
            let descriptionSize = image.load(position + 4, as: UInt32.self),
            let type = image.load(position + 8, as: UInt32.self)
        {
            let name = position + 12
            let description = name + padded(nameSize)
            if type == 18, nameSize == 4, image.matches([0x58, 0x65, 0x6e, 0], at: name) {
                return image.load(description, as: UInt32.self)
            }
            position = description + padded(descriptionSize)
        }
        return nil
    }

    private static func padded(_ size: UInt32) -> Int { (Int(size) + 3) & ~3 }
}
