/// An x86 ELF executable of 64 or 32 bits: a `vmlinux`, or any other kernel that says where it wants
/// to be.
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

    /// The size of addresses and offsets in the file.
    enum Width { case bits32, bits64 }

    let width: Width
    let segments: [Segment]
    /// The physical address of the entry, in code of the file's width.
    let entry: UInt64
    /// The physical address of the 32-bit PVH entry, if the kernel has one.
    let pvhEntry: UInt32?

    static func isELF(_ image: ImageBytes) -> Bool { image.matches([0x7f, 0x45, 0x4c, 0x46]) }

    private static let truncated = BootError("it is truncated or damaged")

    /// The file's own header: its entry, and where the table of its parts is.
    private struct Header {
        let width: Width
        let start: UInt64
        let tableOffset: Int
        let entrySize: Int
        let count: Int

        init(_ image: ImageBytes) throws(BootError) {
            // Little-endian; EM_X86_64, EM_386.
            let machine = image.load(18, as: UInt16.self)
            if image.matches([2, 1], at: 4), machine == 62 {
                width = .bits64
            } else if image.matches([1, 1], at: 4), machine == 3 {
                width = .bits32
            } else {
                throw BootError("it is an ELF file, but not for x86")
            }
            let sizes = width == .bits64 ? 54 : 42
            guard let start = width.load(image, 24, 24),
                let tableOffset = width.load(image, 32, 28).flatMap({ Int(exactly: $0) }),
                let entrySize = image.load(sizes, as: UInt16.self).map(Int.init),
                let count = image.load(sizes + 2, as: UInt16.self).map(Int.init)
            else { throw truncated }
            guard entrySize >= (width == .bits64 ? 56 : 32), count > 0 else {
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
        let width = table.width
        var segments: [Segment] = []
        var entry: UInt64?
        var pvhEntry: UInt32?
        for index in 0..<table.count {
            let header = table.tableOffset + index * table.entrySize
            switch image.load(header, as: UInt32.self) {
            case 1:  // PT_LOAD
                let segment = try Self.segment(image, header, width)
                let virtual = width.load(image, header + 16, header + 8) ?? 0
                // The entry may be named by its virtual address.
                if start >= virtual, start - virtual < segment.memorySize, entry == nil {
                    entry = segment.address + (start - virtual)
                }
                if segment.memorySize > 0 { segments.append(segment) }
            case 4:  // PT_NOTE
                pvhEntry = pvhEntry ?? Self.pvhEntry(image, header, width)
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
        self.width = width
        self.segments = segments
        self.pvhEntry = pvhEntry
    }

    private static func segment(
        _ image: ImageBytes, _ header: Int, _ width: Width
    ) throws(BootError) -> Segment {
        guard let offset = width.load(image, header + 8, header + 4).flatMap({ Int(exactly: $0) }),
            let address = width.load(image, header + 24, header + 12),
            let fileSize = width.load(image, header + 32, header + 16)
                .flatMap({ Int(exactly: $0) }),
            let memorySize = width.load(image, header + 40, header + 20),
            fileSize == 0 || image.contains(offset, fileSize), UInt64(fileSize) <= memorySize
        else { throw truncated }
        guard memorySize <= memoryLimit, address <= memoryLimit else {
            throw BootError("it wants to be loaded above 4 GiB, which is not supported")
        }
        return Segment(
            offset: offset, fileSize: fileSize, address: address, memorySize: memorySize)
    }

    /// Finds the note of type 18 (XEN_ELFNOTE_PHYS32_ENTRY) by "Xen" in a PT_NOTE segment.
    private static func pvhEntry(
        _ image: ImageBytes, _ header: Int, _ width: Width
    ) -> UInt32? {
        guard let start = width.load(image, header + 8, header + 4).flatMap({ Int(exactly: $0) }),
            let size = width.load(image, header + 32, header + 16).flatMap({ Int(exactly: $0) }),
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

extension ELFImage.Width {
    /// A number that has 64 bits at one place in files of 64 bits, and 32 at another in others.
    fileprivate func load(_ image: ImageBytes, _ place64: Int, _ place32: Int) -> UInt64? {
        switch self {
        case .bits64: image.load(place64, as: UInt64.self)
        case .bits32: image.load(place32, as: UInt32.self).map(UInt64.init)
        }
    }
}
