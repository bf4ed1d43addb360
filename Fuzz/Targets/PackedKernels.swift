import CLZ4
import CLZMA
import CZlib
import CZstd
import TestSupport

/// The small kernel, packed in each of the ways that Apus unpacks.
// SAFETY, for all below: the libraries get pointers with their sizes and keep to them.
enum PackedKernels {
    /// In the order of `PayloadTarget`'s choices.
    static let all = [gzip, xz, zstd, lz4]

    private static let source = KernelFiles.elf

    /// Has `pack` fill a buffer.
    private static func pack(_ pack: (UnsafeMutablePointer<UInt8>?, Int) -> Int) -> [UInt8] {
        unsafe Array(unsafeUninitializedCapacity: 1024) { buffer, count in
            count = unsafe pack(buffer.baseAddress, buffer.count)
        }
    }

    /// What zlib makes, in gzip's clothes (RFC 1950, RFC 1952).
    private static let gzip: [UInt8] = {
        let packed = unsafe pack { target, room in
            var count = UInt(room)
            unsafe compress2(target, &count, source, UInt(source.count), 9)
            return Int(count)
        }
        let sum = unsafe crc32(0, source, UInt32(source.count))
        return [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3] + packed.dropFirst(2).dropLast(4)
            + littleEndian(UInt32(sum)) + littleEndian(UInt32(source.count))
    }()

    private static let xz = unsafe pack { target, room in
        var count = 0
        unsafe _ = lzma_easy_buffer_encode(
            6, LZMA_CHECK_CRC32, nil, source, source.count, target, &count, room)
        return count
    }

    private static let zstd = unsafe pack { target, room in
        unsafe ZSTD_compress(target, room, source, source.count, 19)
    }

    /// One block in the old format, which is the kernel's.
    private static let lz4: [UInt8] = {
        let packed = unsafe pack { target, room in
            let target = unsafe UnsafeMutableRawPointer(target)?.assumingMemoryBound(to: CChar.self)
            return unsafe source.withUnsafeBytes { bytes in
                let start = unsafe bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
                return unsafe Int(
                    LZ4_compress_default(start, target, Int32(bytes.count), Int32(room)))
            }
        }
        return littleEndian(0x184c_2102 as UInt32) + littleEndian(UInt32(packed.count)) + packed
    }()
}
