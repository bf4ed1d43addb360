internal import CLZ4
internal import CLZMA
internal import CZlib
internal import CZstd
internal import Core

/// The ways in which the payload of a bzImage can be packed (Linux, scripts/Makefile.lib).
enum Compression: String, CaseIterable {
    case gzip, xz, zstd, lz4, bzip2, lzma, lzo

    /// Recognises a packed stream by its first bytes.
    init?(_ image: ImageBytes, at offset: Int) {
        let magic: [(Compression, [UInt8])] = [
            (.gzip, [0x1f, 0x8b]), (.xz, [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
            (.zstd, [0x28, 0xb5, 0x2f, 0xfd]), (.lz4, [0x02, 0x21, 0x4c, 0x18]),
            (.bzip2, [0x42, 0x5a, 0x68]), (.lzma, [0x5d, 0, 0]), (.lzo, [0x89, 0x4c, 0x5a]),
        ]
        guard let match = magic.first(where: { image.matches($0.1, at: offset) }) else {
            return nil
        }
        self = match.0
    }
}

/// Unpacks a kernel on the host.
enum Decompressor {
    /// Unpacks `size` bytes at `offset` of `image`, of which there are at most `limit`.
    static func unpack(
        _ compression: Compression, _ image: ImageBytes, offset: Int, size: Int, limit: Int
    ) throws(BootError) -> ImageBytes {
        let output: MemoryMapping
        do {
            output = try MemoryMapping(filling: max(limit, 1))
        } catch {
            throw BootError("there is no memory to unpack it (\(error.reason))")
        }
        // SAFETY: output's address and size belong together.
        let room = unsafe UnsafeMutableRawBufferPointer(start: output.base, count: output.size)
        let count = unsafe image.withBytes(offset, size) { input in
            switch compression {
            case .gzip: unsafe gzip(input, room)
            case .xz: unsafe xz(input, room)
            case .zstd: unsafe zstd(input, room)
            case .lz4: unsafe lz4(input, room)
            case .bzip2, .lzma, .lzo: nil as Int?
            }
        }
        guard [.gzip, .xz, .zstd, .lz4].contains(compression) else {
            throw BootError(
                "it is packed with \(compression.rawValue); Apus unpacks gzip, xz, zstd and lz4")
        }
        guard let count, let count, count <= output.size else {
            throw BootError(
                "it is damaged: its \(compression.rawValue) data cannot be unpacked")
        }
        return ImageBytes(output, count: count)
    }

    // SAFETY, for all below: the libraries get pointers with their sizes and keep to them; nothing
    // outlives the calls.

    private static func gzip(
        _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer
    ) -> Int? {
        var stream = unsafe z_stream()
        // 16: a gzip header; 15: the largest window.
        guard
            unsafe inflateInit2_(
                &stream, 16 + 15, zlibVersion(), Int32(MemoryLayout<z_stream>.size)) == Z_OK
        else { return nil }
        defer { unsafe _ = inflateEnd(&stream) }
        unsafe stream.next_in = UnsafeMutablePointer(
            mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        unsafe stream.avail_in = UInt32(clamping: input.count)
        unsafe stream.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        unsafe stream.avail_out = UInt32(clamping: output.count)
        guard unsafe inflate(&stream, Z_FINISH) == Z_STREAM_END else { return nil }
        return unsafe Int(stream.total_out)
    }

    private static func xz(
        _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer
    ) -> Int? {
        var memoryLimit: UInt64 = 1 << 30
        var inputPosition = 0
        var outputPosition = 0
        let result = unsafe lzma_stream_buffer_decode(
            &memoryLimit, 0, nil, input.baseAddress?.assumingMemoryBound(to: UInt8.self),
            &inputPosition, input.count, output.baseAddress?.assumingMemoryBound(to: UInt8.self),
            &outputPosition, output.count)
        return result == LZMA_OK ? outputPosition : nil
    }

    private static func zstd(
        _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer
    ) -> Int? {
        // The stream's size follows the stream, so the frame's end has to be found first.
        let size = unsafe ZSTD_findFrameCompressedSize(input.baseAddress, input.count)
        guard ZSTD_isError(size) == 0 else { return nil }
        let count = unsafe ZSTD_decompress(
            output.baseAddress, output.count, input.baseAddress, size)
        return ZSTD_isError(count) == 0 ? count : nil
    }

    /// The legacy format: a magic number, then blocks with their sizes in front.
    private static func lz4(
        _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer
    ) -> Int? {
        var position = 4
        var done = 0
        // What is left at the end is the unpacked size.
        while input.count - position > 4 {
            let size = unsafe Int(input.loadUnaligned(fromByteOffset: position, as: UInt32.self))
            position += 4
            guard size > 0, size <= input.count - position else { return nil }
            let written = unsafe LZ4_decompress_safe(
                input.baseAddress.map {
                    unsafe ($0 + position).assumingMemoryBound(to: CChar.self)
                },
                output.baseAddress.map { unsafe ($0 + done).assumingMemoryBound(to: CChar.self) },
                Int32(clamping: size), Int32(clamping: output.count - done))
            guard written > 0 else { return nil }
            position += size
            done += Int(written)
        }
        return done
    }
}
