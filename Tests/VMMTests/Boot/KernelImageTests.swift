import TestSupport
import Testing

@testable import VMM

@Suite("Kernel images")
struct KernelImageTests {
    @Test(
        "a bzImage is unpacked, whatever it is packed with",
        arguments: ["gzip", "xz", "zstd", "lz4"])
    func unpack(compression: String) throws {
        let payload = try #require(TestKernels.packed[compression])
        let kernel = try KernelImage(
            TestKernels.image(KernelFiles.bzImage(payload: payload)), path: "k")
        #expect(kernel.entry == .linux64(0x100_0010))
        #expect(kernel.format == "bzImage, \(compression)")
        #expect(kernel.bytes.copy(0, 260) == TestKernels.elf)
        #expect(
            kernel.elf.segments
                == [.init(offset: 176, fileSize: 64, address: 0x100_0000, memorySize: 0x2000)])
        #expect(kernel.setupHeaderField(0x22c, as: UInt32.self) == 0x7fff_ffff)
    }

    @Test("an ELF kernel with a PVH note is entered there")
    func pvh() throws {
        let kernel = try KernelImage(TestKernels.image(TestKernels.elf), path: "k")
        #expect(kernel.entry == .pvh(0x100_0123))
        #expect(kernel.end == 0x100_2000)
    }

    @Test(
        "an ELF kernel of 32 bits with a Multiboot header is entered as that asks",
        arguments: [0, 3])
    func multiboot(flags: UInt32) throws {
        let bytes = KernelFiles.multiboot(flags: flags)
        let kernel = try KernelImage(TestKernels.image(bytes), path: "k")
        #expect(kernel.entry == .multiboot(0x10_000c))
        #expect(kernel.format == "ELF, Multiboot")
        #expect(
            kernel.elf.segments
                == [.init(offset: 84, fileSize: 13, address: 0x10_0000, memorySize: 0x100d)])
    }

    @Test("an entry named by its virtual address is found")
    func virtualEntry() throws {
        var elf = TestKernels.elf
        elf.replaceSubrange(24..<32, with: littleEndian(0xffff_ffff_8100_0020 as UInt64))
        #expect(try ELFImage(TestKernels.image(elf)).entry == 0x100_0020)
    }

    static let gzip = KernelFiles.bzImage(payload: TestKernels.packed["gzip"] ?? [])

    static let bad: [([UInt8], String)] = [
        ([UInt8]("hello".utf8), "it is neither a bzImage nor an ELF executable"),
        (Array(gzip.prefix(0x240)), "it is truncated"),
        (Array(gzip.dropLast(20)), "it is truncated"),
        (
            KernelFiles.bzImage(payload: [UInt8](repeating: 7, count: 64)),
            "it is packed in a way that Apus does not know, or damaged"
        ),
        (
            KernelFiles.bzImage(payload: Array("BZh9".utf8)),
            "it is packed with bzip2; Apus unpacks gzip, xz, zstd and lz4"
        ),
        (
            KernelFiles.bzImage(payload: TestKernels.packed["zstd"] ?? [], unpacked: 100),
            "it is damaged: its zstd data cannot be unpacked"
        ),
        (Array(TestKernels.elf.prefix(100)), "it is truncated or damaged"),
        (Array(TestKernels.elf.prefix(200)), "it is truncated or damaged"),
        (Array("\u{7f}ELF".utf8) + [1, 1], "it is an ELF file, but not for x86"),
        (Array("\u{7f}ELF".utf8) + [1, 2], "it is an ELF file, but not for x86"),
        (Array(KernelFiles.multiboot().prefix(60)), "it is truncated or damaged"),
        (Array(KernelFiles.multiboot().prefix(90)), "it is truncated or damaged"),
        (
            KernelFiles.multiboot(checksum: 7),
            "it is an ELF file of 32 bits, but neither for Multiboot nor for PVH"
        ),
        (
            KernelFiles.multiboot(flags: 7),
            "it asks for a video mode (Multiboot), and there is no display"
        ),
        (
            KernelFiles.multiboot(flags: 0x83),
            "it asks for something that Apus does not know (Multiboot flags 0x83)"
        ),
    ]

    @Test("what is no kernel is refused in a sentence", arguments: bad)
    func refused(bytes: [UInt8], reason: String) {
        #expect(throws: BootError("the kernel 'k' cannot be used: \(reason)")) {
            try KernelImage(TestKernels.image(bytes), path: "k")
        }
    }
}

@Suite("Initramfs check")
struct InitramfsCheckTests {
    @Test("whole archives, padded or concatenated, are fine")
    func whole() throws {
        let one = KernelFiles.initramfs()
        #expect(InitramfsCheck.problem(try TestKernels.image(one)) == nil)
        let padded = one + [UInt8](repeating: 0, count: 512) + one
        #expect(InitramfsCheck.problem(try TestKernels.image(padded)) == nil)
        #expect(InitramfsCheck.problem(try TestKernels.image(one + [0x1f, 0x8b, 8])) == nil)
    }

    @Test("an ELF file with endless parts is refused at once")
    func endless() throws {
        func elf(_ header: [UInt8], count: UInt16) -> [UInt8] {
            var bytes = Array(TestKernels.elf.prefix(64))
            bytes.replaceSubrange(56..<58, with: littleEndian(count))
            return bytes + (0..<count).flatMap { _ in header }
        }
        var part = Array(TestKernels.elf[64..<120])
        #expect(
            throws: BootError("the kernel 'k' cannot be used: it has 60000 parts, more than 128")
        ) { try KernelImage(TestKernels.image(elf(part, count: 60000)), path: "k") }
        // Nothing in the file, 1 GiB in memory.
        part.replaceSubrange(
            32..<48, with: littleEndian(UInt64(0)) + littleEndian(UInt64(1 << 30)))
        #expect(
            throws: BootError(
                "the kernel 'k' cannot be used: its parts are larger than 4 GiB together")
        ) { try KernelImage(TestKernels.image(elf(part, count: 5)), path: "k") }
    }

    @Test("every shorter archive is recognised as truncated")
    func truncated() throws {
        let one = KernelFiles.initramfs()
        for count in 1..<one.count - 14 {
            #expect(InitramfsCheck.problem(try TestKernels.image(Array(one.prefix(count)))) != nil)
        }
    }

    @Test("what is no archive is refused")
    func nonsense() throws {
        #expect(
            InitramfsCheck.problem(try TestKernels.image(Array("nonsense".utf8)))
                == "is neither a cpio archive nor a packed one")
    }
}
