internal import Core

/// Linux's `struct boot_params`, the "zero page" (Documentation/x86/zero-page.rst).
struct BootParameters {
    private(set) var bytes = [UInt8](repeating: 0, count: 4096)

    private static let setupHeader = KernelImage.setupHeaderOffset
    private static let e820Limit = 128

    /// - Parameter setupHeader: from a bzImage; empty for kernels that come without one.
    init(
        setupHeader: [UInt8], map: MemoryMap, rsdp: UInt64, initramfs: MemoryMap.Range?,
        commandLine: MemoryMap.Range
    ) {
        for (index, byte) in setupHeader.prefix(0x290 - Self.setupHeader).enumerated() {
            bytes[Self.setupHeader + index] = byte
        }
        if setupHeader.isEmpty {
            put(0x1fe, 0xaa55 as UInt16)  // boot_flag
            for (index, byte) in "HdrS".utf8.enumerated() { bytes[0x202 + index] = byte }
            put(0x206, 0x020c as UInt16)  // version
            put(0x230, 0x100_0000 as UInt32)  // kernel_alignment
        }
        put(0x210, 0xff as UInt8)  // type_of_loader: unknown
        // loadflags: LOADED_HIGH; no heap.
        put(0x211, 1 as UInt8)
        put(0x228, UInt32(truncatingIfNeeded: commandLine.start))  // cmd_line_ptr
        put(0x238, UInt32(truncatingIfNeeded: commandLine.size))  // cmdline_size
        put(0x070, rsdp)  // acpi_rsdp_addr
        if let initramfs {
            put(0x218, UInt32(truncatingIfNeeded: initramfs.start))  // ramdisk_image
            put(0x21c, UInt32(truncatingIfNeeded: initramfs.size))
            put(0x0c0, UInt32(truncatingIfNeeded: initramfs.start >> 32))  // ext_ramdisk_image
            put(0x0c4, UInt32(truncatingIfNeeded: initramfs.size >> 32))
        }
        let entries = map.entries.prefix(Self.e820Limit)
        put(0x1e8, UInt8(truncatingIfNeeded: entries.count))  // e820_entries
        for (index, entry) in entries.enumerated() {
            let offset = 0x2d0 + 20 * index  // e820_table
            put(offset, entry.range.start)
            put(offset + 8, entry.range.size)
            put(offset + 16, entry.kind.rawValue)
        }
    }

    private mutating func put<T: FixedWidthInteger>(_ offset: Int, _ value: T) {
        for index in 0..<T.bitWidth / 8 {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
        }
    }
}
