/// Small files that a kernel is started with.
package enum KernelFiles {
    /// 64 bytes of HLT at 0x1000000, with a PVH note (entry 0x1000123) and the 64-bit entry
    /// 0x1000010: 260 bytes.
    package static let elf: [UInt8] = {
        func header(
            _ type: UInt32, _ flags: UInt32, offset: UInt64, address: UInt64, size: UInt64,
            memorySize: UInt64, alignment: UInt64
        ) -> [UInt8] {
            littleEndian(type, flags) + littleEndian(offset)
                + littleEndian(type == 1 ? 0xffff_ffff_8100_0000 : 0, address)
                + littleEndian(size, memorySize, alignment)
        }
        let start: UInt64 = 0x100_0000
        let identity: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9)
        let entry = littleEndian(start + 0x10, 64, 0)
        let note =
            littleEndian(4, 4, 18 as UInt32) + Array("Xen\0".utf8)
            + littleEndian(0x100_0123 as UInt32)
        return identity + littleEndian(2, 62 as UInt16) + littleEndian(1 as UInt32) + entry
            + littleEndian(0 as UInt32) + littleEndian(64, 56, 2, 0, 0, 0 as UInt16)
            + header(
                1, 5, offset: 176, address: start, size: 64, memorySize: 0x2000, alignment: 4096)
            + header(4, 4, offset: 240, address: 0, size: 20, memorySize: 20, alignment: 4)
            + [UInt8](repeating: 0xf4, count: 64) + note
    }()

    /// An ELF file of 32 bits with a Multiboot header and then `code`, where it is entered, at
    /// `address`: 84 bytes of headers, 12 of the Multiboot header, and `code`.
    package static func multiboot(
        flags: UInt32 = 3, checksum: UInt32? = nil, address: UInt32 = 0x10_0000,
        code: [UInt8] = [0xf4]
    ) -> [UInt8] {
        let magic: UInt32 = 0x1bad_b002
        let identity: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 1, 1, 1] + [UInt8](repeating: 0, count: 9)
        let size = UInt32(12 + code.count)
        return identity + littleEndian(2, 3 as UInt16)
            + littleEndian(1, address + 12, 52, 0, 0 as UInt32)
            + littleEndian(52, 32, 1, 0, 0, 0 as UInt16)
            + littleEndian(1, 84, address, address, size, size + 0x1000, 5, 4 as UInt32)
            + littleEndian(magic, flags, checksum ?? 0 &- magic &- flags) + code
    }

    /// A bzImage with one sector of setup and `payload`, followed by the unpacked size.
    package static func bzImage(payload: [UInt8], unpacked: Int = 260) -> [UInt8] {
        var image = [UInt8](repeating: 0, count: 1024)
        func put<T: FixedWidthInteger>(_ offset: Int, _ value: T) {
            image.replaceSubrange(offset..<offset + T.bitWidth / 8, with: littleEndian(value))
        }
        put(0x1f1, 1 as UInt8)
        put(0x1fe, 0xaa55 as UInt16)
        put(0x201, 0x6a as UInt8)
        image.replaceSubrange(0x202..<0x206, with: Array("HdrS".utf8))
        put(0x206, 0x020f as UInt16)
        put(0x22c, 0x7fff_ffff as UInt32)
        put(0x230, 0x20_0000 as UInt32)
        put(0x236, 1 as UInt16)
        put(0x238, 2047 as UInt32)
        put(0x248, 16 as UInt32)
        put(0x24c, UInt32(payload.count + 4))
        return image + [UInt8](repeating: 0, count: 16) + payload + littleEndian(UInt32(unpacked))
    }

    /// A cpio archive with one file.
    package static func initramfs(data: [UInt8] = Array("hello".utf8)) -> [UInt8] {
        func member(_ name: String, _ data: [UInt8]) -> [UInt8] {
            func field(_ value: Int) -> String {
                let digits = String(value, radix: 16)
                return String(repeating: "0", count: 8 - digits.count) + digits
            }
            let fields = [1, 0o100644, 0, 0, 1, 0, data.count, 0, 0, 0, 0, name.utf8.count + 1, 0]
            var bytes = Array("070701".utf8) + fields.flatMap { Array(field($0).utf8) }
            bytes += Array(name.utf8) + [0]
            bytes += [UInt8](repeating: 0, count: -bytes.count & 3) + data
            return bytes + [UInt8](repeating: 0, count: -bytes.count & 3)
        }
        return member("file", data) + member("TRAILER!!!", [])
    }
}
