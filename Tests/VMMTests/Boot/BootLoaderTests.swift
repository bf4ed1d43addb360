import Accelerator
import Core
import Foundation
import TestSupport
import Testing

@testable import VMM

@Suite("Boot loader")
struct BootLoaderTests {
    let folder: TestFolder
    let memory: GuestMemory
    let map = MemoryMap(memorySize: 64 << 20)

    init() throws {
        folder = try TestFolder()
        let mapping = try MemoryMapping(anonymous: 64 << 20)
        let region = try #require(
            GuestRegion(start: GuestAddress(0), size: 64 << 20, mapping: mapping))
        memory = try GuestMemory([region])
    }

    func load(
        kernel: [UInt8], initramfs: [UInt8]? = nil, commandLine: String = "quiet",
        map: MemoryMap? = nil
    ) throws -> BootLoader.Result {
        let source = BootSource(
            kernel: try folder.file("kernel", kernel),
            initramfs: try initramfs.map { try folder.file("initramfs", $0) },
            commandLine: commandLine)
        return try BootLoader(memory: memory, map: map ?? self.map, rsdp: 0xe0000)
            .load(BootFiles(source))
    }

    static let bzImage = KernelFiles.bzImage(payload: TestKernels.packed["zstd"] ?? [])

    @Test("a bzImage starts by the 64-bit boot protocol")
    func linux64() throws {
        let initramfs = KernelFiles.initramfs()
        let result = try load(kernel: Self.bzImage, initramfs: initramfs)
        guard case .linux64(let entry, let parameters, let tables, let gdt, _) = result.state else {
            Issue.record("entered as \(result.state)")
            return
        }
        #expect(entry == 0x100_0010)
        #expect(try memory.read(GuestAddress(0x100_0000), as: UInt32.self) == 0xf4f4_f4f4)
        func field<T: FixedWidthInteger & BitwiseCopyable>(_ offset: UInt64, _ type: T.Type) throws
            -> T
        {
            try memory.read(GuestAddress(parameters + offset), as: type)
        }
        #expect(try field(0x202, UInt32.self) == 0x5372_6448)
        #expect(try field(0x210, UInt8.self) == 0xff)
        #expect(try field(0x070, UInt64.self) == 0xe0000)
        #expect(try field(0x1e8, UInt8.self) == 4)
        // The third entry: RAM from 1 MiB.
        #expect(try field(0x2d0 + 40, UInt64.self) == 0x10_0000)
        #expect(try field(0x2d0 + 48, UInt64.self) == 63 << 20)
        let line = UInt64(try field(0x228, UInt32.self))
        #expect(try memory.readBytes(GuestAddress(line), count: 6) == Array("quiet\0".utf8))
        let start = UInt64(try field(0x218, UInt32.self))
        #expect(try field(0x21c, UInt32.self) == UInt32(initramfs.count))
        #expect(start % 4096 == 0 && start + UInt64(initramfs.count) <= 64 << 20)
        #expect(try memory.readBytes(GuestAddress(start), count: initramfs.count) == initramfs)
        // Identity mapping of the last 2 MiB below 4 GiB.
        let last = tables + 0x6000 - 8
        #expect(try memory.read(GuestAddress(last), as: UInt64.self) == 0xffe0_0083)
        // A 64-bit code segment at selector 0x10.
        #expect(try memory.read(GuestAddress(gdt.base + 0x10), as: UInt64.self) >> 53 & 1 == 1)
    }

    @Test("a PVH kernel gets a start info structure")
    func pvh() throws {
        let result = try load(kernel: TestKernels.elf, initramfs: KernelFiles.initramfs())
        guard case .pvh(let entry, let start, _) = result.state else {
            Issue.record("entered as \(result.state)")
            return
        }
        #expect(entry == 0x100_0123)
        let info = UInt64(start)
        #expect(try memory.read(GuestAddress(info), as: UInt32.self) == 0x336e_c578)
        #expect(try memory.read(GuestAddress(info + 12), as: UInt32.self) == 1)
        #expect(try memory.read(GuestAddress(info + 32), as: UInt64.self) == 0xe0000)
        let table = try memory.read(GuestAddress(info + 40), as: UInt64.self)
        #expect(try memory.read(GuestAddress(info + 48), as: UInt32.self) == 4)
        #expect(try memory.read(GuestAddress(table + 16), as: UInt32.self) == 1)
    }

    @Test("a Multiboot kernel gets the information that it was promised")
    func multiboot() throws {
        let module = Array("NR_CPUS=2\n".utf8)
        let result = try load(
            kernel: KernelFiles.multiboot(), initramfs: module, commandLine: "a b")
        guard case .multiboot(let entry, let start, let gdt) = result.state else {
            Issue.record("entered as \(result.state)")
            return
        }
        #expect(entry == 0x10_000c)
        #expect(gdt.limit == 39)
        func word(_ address: UInt64) throws -> UInt32 {
            try memory.read(GuestAddress(address), as: UInt32.self)
        }
        func text(_ address: UInt32) throws -> String {
            var bytes: [UInt8] = []
            while let byte = try? memory.read(
                GuestAddress(UInt64(address) + UInt64(bytes.count)), as: UInt8.self), byte != 0
            { bytes.append(byte) }
            return String(decoding: bytes, as: UTF8.self)
        }
        let information = UInt64(start)
        #expect(try word(information) == 0b10_0100_1101)
        #expect(try word(information + 4) == 639)
        #expect(try word(information + 8) == 63 << 10)
        #expect(try text(word(information + 16)) == "kernel a b")
        #expect(try word(information + 20) == 1)
        let modules = UInt64(try word(information + 24))
        let first = try word(modules)
        #expect(first & 0xfff == 0)
        #expect(try word(modules + 4) == first + 10)
        #expect(try text(first) == "NR_CPUS=2\n")
        #expect(try text(word(modules + 8)) == "initramfs")
        // The memory map: RAM, tables, RAM from 1 MiB, ECAM.
        #expect(try word(information + 44) == 4 * 24)
        let table = UInt64(try word(information + 48))
        #expect(try word(table + 48) == 20)
        #expect(try word(table + 52) == 0x10_0000)
        #expect(try word(table + 60) == 63 << 20)
        #expect(try word(table + 68) == 1)
        #expect(try text(word(information + 64)) == "Apus")
    }

    @Test("a Multiboot kernel may be below what it is started with, and not on it")
    func lowMultiboot() throws {
        let low = try load(kernel: KernelFiles.multiboot(address: 0x8000))
        guard case .multiboot(0x800c, _, _) = low.state else {
            Issue.record("entered as \(low.state)")
            return
        }
        #expect(
            throws: BootError("the kernel wants memory below 1 MiB, which is not supported")
        ) { try load(kernel: KernelFiles.multiboot(address: 0x8_f800)) }
    }

    @Test("memory that is too small is refused with what is needed")
    func tooSmall() throws {
        let small = MemoryMap(memorySize: 16 << 20)
        let error = #expect(throws: BootError.self) {
            try load(kernel: Self.bzImage, map: small)
        }
        #expect(
            error?.description
                == "the kernel needs 17 MiB of memory to start, the guest has 16 MiB; "
                + "give it more with --memory size=")
    }

    @Test("an initramfs larger than memory is refused before it is read")
    func largeInitramfs() throws {
        let path = try folder.file("large", KernelFiles.initramfs())
        let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try handle.truncate(atOffset: 3 << 30)
        try handle.close()
        let kernel = try folder.file("kernel", Self.bzImage)
        let source = BootSource(kernel: kernel, initramfs: path, commandLine: "")
        #expect(
            throws: BootError(
                "the initramfs '\(path)' has 3072 MiB, which is more than the 64 MiB that there "
                    + "is room for")
        ) { try BootLoader(memory: memory, map: map, rsdp: 0).load(BootFiles(source)) }
    }

    @Test("a command line that is too long is refused")
    func longCommandLine() {
        #expect(throws: BootError("the command line has 3000 bytes, the kernel takes 2047")) {
            try load(kernel: Self.bzImage, commandLine: String(repeating: "x", count: 3000))
        }
    }

    @Test("a command line that a lying kernel allows is refused for lack of room")
    func longerCommandLine() {
        var kernel = Self.bzImage
        kernel.replaceSubrange(0x238..<0x23c, with: littleEndian(UInt32.max))
        #expect(throws: BootError("the command line has 70000 bytes, the kernel takes 65535")) {
            try load(kernel: kernel, commandLine: String(repeating: "x", count: 70_000))
        }
    }

    @Test("files that are missing or no files are named")
    func missing() throws {
        let loader = BootLoader(memory: memory, map: map, rsdp: 0)
        let missing = BootSource(kernel: "/nowhere/k", initramfs: nil, commandLine: "")
        #expect(
            throws: BootError(
                "the kernel '/nowhere/k' cannot be read: No such file or directory")
        ) { try loader.load(BootFiles(missing)) }
        let directory = BootSource(kernel: folder.path, initramfs: nil, commandLine: "")
        #expect(throws: BootError("the kernel '\(folder.path)' is not a file")) {
            try loader.load(BootFiles(directory))
        }
        let truncated = Array(KernelFiles.initramfs().dropLast(60))
        let error = #expect(throws: BootError.self) {
            try load(kernel: Self.bzImage, initramfs: truncated)
        }
        #expect(error?.description.contains("is truncated") == true)
    }

    @Test(
        "Debian's kernel is unpacked and loaded",
        .enabled(if: ProcessInfo.processInfo.environment["APUS_GUEST"] != nil))
    func debian() throws {
        let guest = ProcessInfo.processInfo.environment["APUS_GUEST"] ?? ""
        let size: UInt64 = 256 << 20
        let mapping = try MemoryMapping(anonymous: Int(size))
        let region = try #require(GuestRegion(start: GuestAddress(0), size: size, mapping: mapping))
        let loader = BootLoader(
            memory: try GuestMemory([region]), map: MemoryMap(memorySize: size), rsdp: 0)
        let source = BootSource(
            kernel: "\(guest)/vmlinuz", initramfs: "\(guest)/initramfs", commandLine: "")
        let result = try loader.load(BootFiles(source))
        guard case .linux64(let entry, _, _, _, _) = result.state else {
            Issue.record("entered as \(result.state)")
            return
        }
        #expect(entry == 0x100_0000)
    }
}
