import Core
import Foundation
import TestSupport

@testable import VMM

/// Small kernels for tests: an ELF file, packed by the reference tools.
enum TestKernels {
    static let elf = KernelFiles.elf

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

    static func image(_ bytes: [UInt8]) throws -> ImageBytes {
        let mapping = try MemoryMapping(anonymous: max(bytes.count, 1))
        // SAFETY: the mapping has room for all bytes.
        unsafe mapping.base.copyMemory(from: bytes, byteCount: bytes.count)
        return ImageBytes(mapping, count: bytes.count)
    }
}
