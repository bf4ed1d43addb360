import Core
import Foundation

@testable import VMM

/// Small kernels for tests: an ELF file of 64 bytes of HLT at 0x1000000, with a PVH note (entry
/// 0x1000123) and the 64-bit entry 0x1000010, packed by the reference tools.
enum TestKernels {
    /// 260 bytes.
    static let elf = decode(
        """
        f0VMRgIBAQAAAAAAAAAAAAIAPgABAAAAEAAAAQAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAACAAAAAA\
        AAAAEAAAAFAAAAsAAAAAAAAAAAAACB/////wAAAAEAAAAAQAAAAAAAAAAAIAAAAAAAAAAQAAAAAAAABAAA\
        AAQAAADwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUAAAAAAAAABQAAAAAAAAABAAAAAAAAAD09PT09PT09P\
        T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0BAAAAAQA\
        AAASAAAAWGVuACMBAAE=
        """)

    static let packed: [String: [UInt8]] = [
        // gzip -n -9
        "gzip": decode(
            """
            H4sIAAAAAAACA6t39XFjYmRkgAEmBjsGEE+AAUwxODBgAgcGC6A6CAApYgXiDQjpxv9AwICuXwFKC0\
            AoFij+wIAdiKDRLFD6C4UAZq8QEEek5jEoMzIwAgBKHd2EBAEAAA==
            """),
        // xz --check=crc32 --x86 --lzma2=dict=1MiB
        "xz": decode(
            """
            /Td6WFoAAAFpIt42AgEEACEBEACLIW9J4AEDAEpdAD+RRYRoPYmm2orMk+JO2QPEg+1ZQ3ScJG/VzP\
            xJF38Xn9YRLMUmU9dcaqARO9O2qmo4aTV7vRJ53Vvd5mcuA9ACL44P//xP0jwAAAAASh3dhAABYoQC\
            AAAAVaQGaD4wDYsCAAAAAAFZWg==
            """),
        // zstd -22 --ultra
        "zstd": decode(
            """
            KLUv/QSIjQIAskcPGMCnNcP2/7//jdqrqgcedfJucCKvIO2WKdaIDbM8+P2k/wmj3+9f/+H0/A8duP\
            3V4vF4e90a1X8zlSiIEwYAdKVb6W5OGQNGRADw5IEn2gJPIA==
            """),
        // lz4 -l -9
        "lz4": decode(
            """
            AiFMGGgAAACEf0VMRgIBAQABAEACAD4ADgAhEAAHAD4AQAABAFNAADgAAgwAACUAVgUAAACwHwBsgf\
            ////8AQAATIAgAEhAHABMEBAAv8AABAAMbFAgAEwQIAB/0AQAsBHgAwBIAAABYZW4AIwEAAQ==
            """),
    ]

    static func decode(_ text: String) -> [UInt8] { Array(Data(base64Encoded: text) ?? Data()) }

    static func bytes<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    /// A bzImage with one sector of setup and `payload`, followed by the unpacked size.
    static func bzImage(payload: [UInt8], unpacked: Int = 260) -> [UInt8] {
        var image = [UInt8](repeating: 0, count: 1024)
        func put<T: FixedWidthInteger>(_ offset: Int, _ value: T) {
            image.replaceSubrange(offset..<offset + T.bitWidth / 8, with: bytes(value))
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
        return image + [UInt8](repeating: 0, count: 16) + payload + bytes(UInt32(unpacked))
    }

    /// A cpio archive with one file.
    static func initramfs(data: [UInt8] = Array("hello".utf8)) -> [UInt8] {
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

    static func image(_ bytes: [UInt8]) throws -> ImageBytes {
        let mapping = try MemoryMapping(anonymous: max(bytes.count, 1))
        // SAFETY: the mapping has room for all bytes.
        unsafe mapping.base.copyMemory(from: bytes, byteCount: bytes.count)
        return ImageBytes(mapping, count: bytes.count)
    }
}

/// A folder of a test's own, removed at its end.
final class ScratchFolder {
    let path: String

    init() throws {
        path =
            FileManager.default.temporaryDirectory
            .appending(component: "apus-test-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }
}
