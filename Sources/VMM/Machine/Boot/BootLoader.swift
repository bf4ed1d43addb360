internal import Accelerator
internal import Core

/// What the user gives to start a guest with.
package struct BootSource: Equatable, Sendable {
    package var kernel: String
    package var initramfs: String?
    package var commandLine: String

    package init(kernel: String, initramfs: String?, commandLine: String) {
        self.kernel = kernel
        self.initramfs = initramfs
        self.commandLine = commandLine
    }
}

/// Puts a kernel and what it starts with into guest memory.
struct BootLoader {
    let memory: GuestMemory
    let map: MemoryMap
    /// The address of the ACPI root pointer; 0 if there are no tables.
    let rsdp: UInt64

    /// What was loaded.
    struct Result {
        let state: InitialCPUState
        let format: String
    }

    func load(_ files: BootFiles) throws(BootError) -> Result {
        let kernel = try KernelImage(files.kernel)
        let initramfs = try files.initramfs.map { file throws(BootError) in
            let image = try ImageBytes(file, limit: Int(clamping: map.lowRAM.size))
            // What it is to a Multiboot kernel is the kernel's business.
            if !kernel.isMultiboot, let problem = InitramfsCheck.problem(image) {
                throw BootError("the \(file) \(problem)")
            }
            return image
        }
        do {
            let place = try place(initramfs, kernel)
            try loadSegments(kernel)
            if let initramfs, let place {
                try initramfs.write(0, initramfs.count, to: memory, at: place.address)
            }
            let state = try writeEntry(kernel, files, initramfs: place)
            return Result(state: state, format: kernel.format)
        } catch let error as BootError {
            throw error
        } catch {
            throw BootError("the kernel does not fit into the guest's memory: \(error)")
        }
    }

    private func writeEntry(
        _ kernel: KernelImage, _ files: BootFiles, initramfs: MemoryMap.Range?
    ) throws -> InitialCPUState {
        switch kernel.entry {
        case .linux64(let entry):
            let commandLine = try writeCommandLine(files.commandLine, kernel)
            let parameters = BootParameters(
                setupHeader: kernel.setupHeader, map: map, rsdp: rsdp, initramfs: initramfs,
                commandLine: commandLine)
            try memory.write(GuestAddress(BootLayout.bootParameters), parameters.bytes)
            try writePageTables()
            return .linux64(
                entry: entry, bootParameters: BootLayout.bootParameters,
                pageTables: BootLayout.pageTables, gdt: try writeGDT(code: 0x00af_9b00_0000_ffff),
                stack: BootLayout.stack)
        case .pvh(let entry):
            let commandLine = try writeCommandLine(files.commandLine, kernel)
            try writeStartInfo(initramfs: initramfs, commandLine: commandLine)
            return .pvh(
                entry: entry, startInfo: UInt32(BootLayout.startInfo),
                gdt: try writeGDT(code: 0x00cf_9b00_0000_ffff))
        case .multiboot(let entry): return try writeMultiboot(entry, files, module: initramfs)
        }
    }

    /// - Parameter module: where `--initramfs` is.
    private func writeMultiboot(
        _ entry: UInt32, _ files: BootFiles, module: MemoryMap.Range?
    ) throws -> InitialCPUState {
        var writer = GuestWriter(memory: memory, position: BootLayout.multibootStrings)
        func put(_ text: String) throws(GuestMemoryError) -> UInt64 {
            let start = writer.position
            for byte in text.utf8 { try writer.put(byte) }
            try writer.put(0 as UInt8)
            return start
        }
        // The first word is the kernel's own name, as other loaders have it.
        let words = [files.kernel.name, files.commandLine].filter { !$0.isEmpty }
        let line = words.joined(separator: " ")
        try checkCommandLine(line, limit: BootLayout.commandLineLimit / 2)
        let information = MultibootInformation(
            memory: memory, map: map,
            strings: .init(
                commandLine: try put(line), module: try put(files.initramfs?.name ?? ""),
                loader: try put("Apus")))
        try information.write(module: module)
        return .multiboot(
            entry: entry, information: UInt32(BootLayout.multiboot),
            gdt: try writeGDT(code: 0x00cf_9b00_0000_ffff, at: BootLayout.multibootGDT))
    }

    private func loadSegments(_ kernel: KernelImage) throws(GuestMemoryError) {
        for segment in kernel.elf.segments {
            let address = GuestAddress(segment.address)
            try kernel.bytes.write(segment.offset, segment.fileSize, to: memory, at: address)
            let zeroes = segment.memorySize - UInt64(segment.fileSize)
            try memory.clear(
                GuestAddress(segment.address + UInt64(segment.fileSize)), count: zeroes)
        }
    }

    /// Chooses the highest place for the initramfs, and sees that all fits.
    private func place(
        _ initramfs: ImageBytes?, _ kernel: KernelImage
    ) throws(BootError) -> MemoryMap.Range? {
        let size = UInt64(initramfs?.count ?? 0)
        let padded = (size + 0xfff) & ~0xfff
        // An initramfs is above 1 MiB, wherever the kernel is.
        let needed = max(kernel.end, MemoryMap.oneMiB) + padded
        // Below 1 MiB is what kernels are started with.
        let lowest = MemoryMap.oneMiB
        let isBeside =
            kernel.isMultiboot
            ? kernel.elf.segments.allSatisfy { segment in
                segment.end <= BootLayout.multiboot || segment.address >= lowest
            } : kernel.start >= lowest
        guard isBeside else {
            throw BootError("the kernel wants memory below 1 MiB, which is not supported")
        }
        guard needed <= map.lowRAM.end else {
            let megabytes = (needed + 0xf_ffff) >> 20
            let what = initramfs == nil ? "the kernel needs" : "kernel and initramfs need"
            throw BootError(
                "\(what) \(megabytes) MiB of memory to start, the guest has "
                    + "\(map.lowRAM.size >> 20) MiB; give it more with --memory size=")
        }
        guard size > 0 else { return nil }
        // A kernel may say up to where it finds an initramfs (boot.rst, initrd_addr_max).
        let highest = kernel.setupHeaderField(0x22c, as: UInt32.self).map { UInt64($0) + 1 }
        let limit = min(map.lowRAM.end, highest ?? 0x8000_0000) & ~0xfff
        guard limit >= needed else {
            throw BootError("the initramfs is too large for this kernel")
        }
        return MemoryMap.Range(start: limit - padded, size: size)
    }

    private func writeCommandLine(
        _ text: String, _ kernel: KernelImage
    ) throws -> MemoryMap.Range {
        let bytes = Array(text.utf8)
        let wanted = kernel.setupHeaderField(0x238, as: UInt32.self).map(Int.init) ?? 2047
        try checkCommandLine(text, limit: min(wanted, BootLayout.commandLineLimit - 1))
        try memory.write(GuestAddress(BootLayout.commandLine), bytes + [0])
        return MemoryMap.Range(start: BootLayout.commandLine, size: UInt64(bytes.count))
    }

    private func checkCommandLine(_ text: String, limit: Int) throws(BootError) {
        let count = text.utf8.count
        guard count <= limit else {
            throw BootError("the command line has \(count) bytes, the kernel takes \(limit)")
        }
        guard !text.utf8.contains(0) else { throw BootError("the command line contains a NUL") }
    }

    /// Maps the first 4 GiB to themselves with pages of 2 MiB.
    private func writePageTables() throws(GuestMemoryError) {
        let present: UInt64 = 0x3
        let large: UInt64 = 0x80
        let pointers = BootLayout.pageTables + 0x1000
        try memory.clear(GuestAddress(BootLayout.pageTables), count: 0x2000)
        try memory.write(GuestAddress(BootLayout.pageTables), pointers | present)
        for table in 0..<4 as Range<UInt64> {
            let directory = pointers + 0x1000 * (table + 1)
            try memory.write(GuestAddress(pointers + 8 * table), directory | present)
            var writer = GuestWriter(memory: memory, position: directory)
            for page in 0..<512 as Range<UInt64> {
                try writer.put((table << 30 | page << 21) | present | large)
            }
        }
    }

    /// The selectors that boot.rst and PVH ask for: 0x10 code, 0x18 data, 0x20 a task segment.
    private func writeGDT(
        code: UInt64, at address: UInt64 = BootLayout.gdt
    ) throws(GuestMemoryError) -> InitialCPUState.DescriptorTable {
        var writer = GuestWriter(memory: memory, position: address)
        let entries: [UInt64] = [0, 0, code, 0x00cf_9300_0000_ffff, 0x0080_8b00_0000_0067]
        for entry in entries { try writer.put(entry) }
        return InitialCPUState.DescriptorTable(
            base: address, limit: UInt16(entries.count * 8 - 1))
    }

    /// The structure that PVH starts with (Xen, public/arch-x86/hvm/start_info.h), version 1.
    private func writeStartInfo(
        initramfs: MemoryMap.Range?, commandLine: MemoryMap.Range
    ) throws(GuestMemoryError) {
        let modules = BootLayout.startInfo + 64
        let table = modules + 32
        var writer = GuestWriter(memory: memory, position: BootLayout.startInfo)
        try writer.put(0x336e_c578 as UInt32)
        try writer.put(1 as UInt32)
        try writer.put(0 as UInt32)  // flags
        try writer.put((initramfs == nil ? 0 : 1) as UInt32)
        try writer.put(initramfs == nil ? 0 : modules)
        try writer.put(commandLine.start)
        try writer.put(rsdp)
        try writer.put(table)
        try writer.put(UInt32(truncatingIfNeeded: map.entries.count))
        try writer.put(0 as UInt32)
        writer.position = modules
        try writer.put(initramfs?.start ?? 0)
        try writer.put(initramfs?.size ?? 0)
        try writer.put(0 as UInt64)  // the module's own command line
        try writer.put(0 as UInt64)
        for entry in map.entries {
            try writer.put(entry.range.start)
            try writer.put(entry.range.size)
            try writer.put(entry.kind.rawValue)
            try writer.put(0 as UInt32)
        }
    }
}

extension KernelImage {
    /// A field of the setup header by its offset in a bzImage; `nil` for other kernels.
    func setupHeaderField<T: FixedWidthInteger>(_ offset: Int, as type: T.Type) -> T? {
        let start = offset - Self.setupHeaderOffset
        let size = T.bitWidth / 8
        guard start >= 0, start + size <= setupHeader.count else { return nil }
        return setupHeader[start..<start + size].reversed().reduce(0) { $0 << 8 | T($1) }
    }
}

extension GuestMemory {
    /// Fills a range with zeroes.
    func clear(_ address: GuestAddress, count: UInt64) throws(GuestMemoryError) {
        try unsafe forEachPiece(address, count: count) { _, _, piece in
            // SAFETY: the piece is mapped guest memory.
            unsafe piece.initializeMemory(as: UInt8.self, repeating: 0)
        }
    }
}
