internal import Core

/// What a kernel asks of a loader (Multiboot Specification 0.6.96, section 3.1).
struct MultibootHeader {
    let flags: UInt32

    private static let magic: UInt32 = 0x1bad_b002
    /// The header is within these first bytes of the file.
    private static let searched = 8192
    private static let wantsVideoMode: UInt32 = 1 << 2
    /// Flags that a loader must know; bits 0 and 1 ask for what is always done: modules on pages of
    /// their own, and the size of memory.
    private static let required: UInt32 = 0xffff

    /// Looks for the header in a file.
    init?(_ image: ImageBytes) {
        for offset in stride(from: 0, through: Self.searched - 12, by: 4) {
            guard image.load(offset, as: UInt32.self) == Self.magic,
                let flags = image.load(offset + 4, as: UInt32.self),
                let checksum = image.load(offset + 8, as: UInt32.self)
            else { continue }
            if Self.magic &+ flags &+ checksum == 0 {
                self.flags = flags
                return
            }
        }
        return nil
    }

    /// Refuses what is not there to be had.
    func check() throws(BootError) {
        if flags & Self.wantsVideoMode != 0 {
            throw BootError("it asks for a video mode (Multiboot), and there is no display")
        }
        if flags & Self.required & ~3 != 0 {
            throw BootError(
                "it asks for something that Apus does not know (Multiboot flags "
                    + "0x\(String(flags, radix: 16)))")
        }
    }
}

/// The structure that such a kernel starts with (section 3.3).
struct MultibootInformation {
    let memory: GuestMemory
    let map: MemoryMap
    /// The strings that follow the structure at `BootLayout.multiboot`.
    let strings: Strings

    struct Strings {
        let commandLine: UInt64
        let module: UInt64
        let loader: UInt64
    }

    /// - Parameter module: what `--initramfs` is to such a kernel.
    func write(module: MemoryMap.Range?) throws(GuestMemoryError) {
        let start = BootLayout.multiboot
        let modules = start + 128
        let table = modules + 16
        try memory.clear(GuestAddress(start), count: 128)
        try put(0, 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9)  // what is valid
        try put(4, MemoryMap.conventionalEnd >> 10)  // mem_lower, in KiB
        try put(8, (map.lowRAM.end - MemoryMap.oneMiB) >> 10)  // mem_upper
        try put(16, strings.commandLine)
        try put(20, module == nil ? 0 : 1)  // mods_count
        try put(24, modules)
        try put(44, UInt64(map.entries.count) * 24)  // mmap_length
        try put(48, table)
        try put(64, strings.loader)
        var writer = GuestWriter(memory: memory, position: modules)
        for value in [module?.start ?? 0, module?.end ?? 0, strings.module, 0] {
            try writer.put(UInt32(truncatingIfNeeded: value))
        }
        for entry in map.entries {
            try writer.put(20 as UInt32)  // of what follows
            try writer.put(entry.range.start)
            try writer.put(entry.range.size)
            try writer.put(entry.kind.rawValue)
        }
    }

    private func put(_ offset: UInt64, _ value: UInt64) throws(GuestMemoryError) {
        // All that a kernel is started with is below 4 GiB.
        try memory.write(
            GuestAddress(BootLayout.multiboot + offset), UInt32(truncatingIfNeeded: value))
    }
}
