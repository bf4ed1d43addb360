import Accelerator
import Core
import Glibc
import TestSupport

@testable import VMM

/// Whole kernel files: bzImage, ELF, PVH.
struct KernelTarget: FuzzTarget {
    static let name = "kernel"
    static let about = "kernel files: bzImage with each packing, ELF, PVH, Multiboot"

    static let seeds =
        [KernelFiles.elf, KernelFiles.multiboot(), KernelFiles.multiboot(flags: 7)]
        + PackedKernels.all.map { KernelFiles.bzImage(payload: $0) }

    private let memory: GuestMemory
    private static let memorySize: UInt64 = 24 << 20

    init() throws { memory = try makeMemory(Self.memorySize) }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let bytes = input.rest()
        if bytes.isEmpty { return false }
        let file = try MemFD(name: "kernel", size: UInt64(bytes.count))
        // SAFETY: the bytes live for the call.
        let written = unsafe pwrite(file.fd.rawValue, bytes, bytes.count, 0)
        try require(written == bytes.count, "the kernel's file cannot be written")
        let loader = BootLoader(
            memory: memory, map: MemoryMap(memorySize: Self.memorySize), rsdp: 0xe0000)
        let source = BootSource(
            kernel: "/proc/self/fd/\(file.fd.rawValue)", initramfs: nil, commandLine: "quiet")
        do {
            _ = try loader.load(try BootFiles(source))
            return true
        } catch {
            try require(!"\(error)".isEmpty, "an error says nothing")
            // What was recognised as a kernel counts.
            return !"\(error)".contains("neither a bzImage")
        }
    }
}

/// What a kernel is packed with.
struct PayloadTarget: FuzzTarget {
    static let name = "payload"
    static let about = "packed kernels: gzip, xz, zstd and lz4 streams"

    static let seeds: [[UInt8]] = zip(PackedKernels.all, magic).enumerated().map { index, packed in
        [UInt8(index), 0, 16] + packed.0.dropFirst(packed.1.1.count)
    }

    private static let magic: [(Compression, [UInt8])] = [
        (.gzip, [0x1f, 0x8b, 8, 0]), (.xz, [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
        (.zstd, [0x28, 0xb5, 0x2f, 0xfd]), (.lz4, [0x02, 0x21, 0x4c, 0x18]),
    ]

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let (compression, magic) = input.pick(Self.magic)
        let limit = input.flag() ? Int(input.number(UInt16.self)) : 1 << input.below(24)
        let payload = magic + input.rest()
        let image = try makeImage(payload)
        try require(Compression(image, at: 0) == compression, "\(compression) is not recognised")
        guard
            let result = try? Decompressor.unpack(
                compression, image, offset: 0, size: payload.count, limit: limit)
        else { return false }
        try require(result.count <= max(limit, 1), "\(result.count) bytes instead of \(limit)")
        return true
    }
}

/// The archive that the kernel begins with.
struct InitramfsTarget: FuzzTarget {
    static let name = "initramfs"
    static let about = "the check that an initramfs is whole"
    static let seeds = [
        KernelFiles.initramfs(),
        KernelFiles.initramfs() + [UInt8](repeating: 0, count: 512) + KernelFiles.initramfs(),
        KernelFiles.initramfs() + PackedKernels.all[0], PackedKernels.all[2],
    ]

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let problem = InitramfsCheck.problem(try makeImage(input.rest()))
        return problem.map { !$0.contains("neither") } ?? true
    }
}

private func makeMemory(_ size: UInt64) throws -> GuestMemory {
    let mapping = try MemoryMapping(anonymous: Int(size))
    guard let region = GuestRegion(start: GuestAddress(0), size: size, mapping: mapping) else {
        throw FuzzFailure("there is no region")
    }
    return try GuestMemory([region])
}

private func makeImage(_ bytes: [UInt8]) throws -> ImageBytes {
    let mapping = try MemoryMapping(anonymous: max(bytes.count, 1))
    // SAFETY: the mapping has room for all bytes.
    unsafe mapping.base.copyMemory(from: bytes, byteCount: bytes.count)
    return ImageBytes(mapping, count: bytes.count)
}
