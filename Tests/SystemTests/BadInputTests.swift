import Core
import Foundation
import Testing

@Suite("Bad input ends with one sentence", .enabled(if: Setting.hasBinary))
struct BadInputTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Runs the executable and checks that it says one sentence and ends with a code.
    func check(_ arguments: [String], code: Int32, _ sentence: String) throws {
        let apus = try RunningProgram.apus(arguments)
        #expect(try apus.wait(seconds: 10) == code)
        let lines = apus.errorText.split(separator: "\n")
        #expect(lines.count == 1, "\(apus.errorText)")
        #expect(apus.errorText.contains(sentence), "\(apus.errorText)")
        #expect(apus.text.isEmpty)
    }

    static let commandLines: [([String], String)] = [
        ([], "--kernel is missing"),
        (["--kernal", "k"], "unknown option '--kernal'; did you mean '--kernel'?"),
        (["--kernel", "k", "--disk", "pth=x"], "--disk: unknown key 'pth'; did you mean 'path'?"),
        (["--kernel", "k", "--memory", "size=12"], "--memory: size is a multiple of 1M"),
        (["--kernel", "k", "--cpus", "boot=none"], "'none' is not a whole number"),
        (["k"], "unexpected argument 'k'"),
    ]

    @Test("command lines", arguments: commandLines)
    func usage(arguments: [String], sentence: String) throws {
        try check(arguments, code: 2, sentence)
    }

    @Test("a kernel that is missing, nonsense or truncated")
    func kernels() throws {
        try check(["--kernel", "/nowhere"], code: 1, "No such file or directory")
        try check(["--kernel", folder.path], code: 1, "is not a file")
        let nonsense = try folder.file("nonsense", Data(repeating: 0x41, count: 100_000))
        try check(["--kernel", nonsense], code: 1, "neither a bzImage nor an ELF")
        try check(["--kernel", try folder.file("empty")], code: 1, "is empty")
    }

    @Test(
        "Debian's kernel, truncated", .enabled(if: Setting.hasGuest),
        arguments: [600, 20_000, 5_000_000, 14_000_000])
    func truncatedKernel(size: Int) throws {
        let whole = try Data(contentsOf: URL(fileURLWithPath: "\(Setting.guest ?? "")/vmlinuz"))
        let kernel = try folder.file("kernel", whole.prefix(size))
        try check(["--kernel", kernel], code: 1, "is truncated")
    }

    @Test("an initramfs that is missing, nonsense or truncated", .enabled(if: Setting.hasGuest))
    func initramfs() throws {
        let guest = Setting.guest ?? ""
        let kernel = "\(guest)/vmlinuz"
        try check(["--kernel", kernel, "--initramfs", "/nowhere"], code: 1, "No such file")
        let nonsense = try folder.file("nonsense", Data(repeating: 0x41, count: 100_000))
        try check(["--kernel", kernel, "--initramfs", nonsense], code: 1, "neither a cpio archive")
        let whole = try Data(contentsOf: URL(fileURLWithPath: "\(guest)/initramfs"))
        let half = try folder.file("half", whole.prefix(whole.count / 2))
        try check(["--kernel", kernel, "--initramfs", half], code: 1, "is truncated")
    }

    @Test("memory that is too small", .enabled(if: Setting.hasGuest))
    func smallMemory() throws {
        try check(
            ["--kernel", "\(Setting.guest ?? "")/vmlinuz", "--memory", "size=32M"], code: 1,
            "MiB of memory to start, the guest has 32 MiB")
    }
}
