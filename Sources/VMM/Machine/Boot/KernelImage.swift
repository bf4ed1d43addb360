/// A kernel, recognised by its content.
struct KernelImage {
    /// How the kernel is entered.
    enum Entry: Equatable {
        /// The 64-bit Linux boot protocol, with boot parameters.
        case linux64(UInt64)
        /// PVH, with a start info structure.
        case pvh(UInt32)
        /// Multiboot, with an information structure.
        case multiboot(UInt32)
    }

    /// The bytes that the segments are parts of.
    let bytes: ImageBytes
    let elf: ELFImage
    let entry: Entry
    /// The setup header of a bzImage, from offset 0x1F1; empty for an ELF file.
    let setupHeader: [UInt8]
    /// For the boot-time report, for example `bzImage, zstd`.
    let format: String

    /// Where the setup header begins in a bzImage and in the boot parameters.
    static let setupHeaderOffset = 0x1f1
    /// More than any kernel unpacks to.
    private static let unpackedLimit = 1 << 30

    init(_ file: BootFile) throws(BootError) {
        try self.init(ImageBytes(file), path: file.path)
    }

    /// - Parameter path: for messages.
    init(_ image: ImageBytes, path: String) throws(BootError) {
        do {
            if ELFImage.isELF(image) {
                try self.init(elf: image)
            } else if image.matches([0x55, 0xaa], at: 0x1fe),
                image.matches(Array("HdrS".utf8), at: 0x202)
            {
                try self.init(bzImage: image)
            } else {
                throw BootError("it is neither a bzImage nor an ELF executable")
            }
        } catch {
            throw BootError("the kernel '\(path)' cannot be used: \(error)")
        }
    }

    private init(elf image: ImageBytes) throws(BootError) {
        elf = try ELFImage(image)
        bytes = image
        setupHeader = []
        if let pvhEntry = elf.pvhEntry {
            entry = .pvh(pvhEntry)
            format = "ELF, PVH"
        } else if elf.width == .bits64 {
            entry = .linux64(elf.entry)
            format = "ELF"
        } else if let header = MultibootHeader(image), let start = UInt32(exactly: elf.entry) {
            try header.check()
            entry = .multiboot(start)
            format = "ELF, Multiboot"
        } else {
            throw BootError("it is an ELF file of 32 bits, but neither for Multiboot nor for PVH")
        }
    }

    var isMultiboot: Bool {
        if case .multiboot = entry { true } else { false }
    }

    /// Unpacks the kernel inside a bzImage (Linux, Documentation/x86/boot.rst).
    private init(bzImage image: ImageBytes) throws(BootError) {
        guard let version = image.load(0x206, as: UInt16.self),
            let sectors = image.load(0x1f1, as: UInt8.self).map(Int.init),
            let flags = image.load(0x236, as: UInt16.self),
            let payloadOffset = image.load(0x248, as: UInt32.self).map(Int.init),
            let payloadSize = image.load(0x24c, as: UInt32.self).map(Int.init),
            let headerEnd = image.load(0x201, as: UInt8.self).map({ 0x202 + Int($0) })
        else { throw BootError("it is truncated") }
        // 2.08 brought the payload's place, 2.12 the flag for 64-bit kernels.
        guard version >= 0x20c, flags & 1 != 0 else {
            throw BootError("it is not a 64-bit kernel of Linux 3.8 or newer")
        }
        let offset = ((sectors == 0 ? 4 : sectors) + 1) * 512 + payloadOffset
        guard payloadSize > 4, image.contains(offset, payloadSize),
            let size = image.load(offset + payloadSize - 4, as: UInt32.self).map(Int.init)
        else { throw BootError("it is truncated") }
        guard size <= Self.unpackedLimit else { throw BootError("it is damaged") }
        if image.matches([0x7f, 0x45, 0x4c, 0x46], at: offset) {
            throw BootError("its payload is not packed, which is not supported")
        }
        guard let compression = Compression(image, at: offset) else {
            throw BootError("it is packed in a way that Apus does not know, or damaged")
        }
        bytes = try Decompressor.unpack(
            compression, image, offset: offset, size: payloadSize, limit: size)
        guard ELFImage.isELF(bytes) else { throw BootError("there is no kernel inside") }
        elf = try ELFImage(bytes)
        entry = .linux64(elf.entry)
        setupHeader = image.copy(Self.setupHeaderOffset, headerEnd - Self.setupHeaderOffset)
        format = "bzImage, \(compression.rawValue)"
    }

    /// The end of the memory that the kernel fills before it looks for more.
    var end: UInt64 { elf.segments.map(\.end).max() ?? 0 }
    var start: UInt64 { elf.segments.map(\.address).min() ?? 0 }
}
