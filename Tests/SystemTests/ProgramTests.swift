import CLinux
import Core
import Foundation
import TestSupport
import Testing

@Suite("The executable", .needs(.executable))
struct ProgramTests {
    @Test("help and version go to standard output")
    func help() throws {
        let help = try RunningProgram.apus(["--help"])
        #expect(try help.wait() == 0)
        #expect(help.text.contains("--kernel PATH") && help.errorText.isEmpty)
        let version = try RunningProgram.apus(["--version"])
        #expect(try version.wait() == 0)
        #expect(version.text.hasPrefix("apus 0."))
        let full = try RunningProgram(
            "/bin/sh", ["-c", "exec \"$0\" --help >/dev/full", Setting.binary ?? ""])
        #expect(try full.wait() == 1)
        #expect(
            full.errorText
                == "apus: error: standard output cannot be written: write: No space left on "
                + "device\n")
    }

    @Test(
        "a Multiboot kernel finds what it was promised, and ends the machine with a status",
        arguments: ["tier=interpreter", "tier=translator"])
    func multiboot(tier: String) throws {
        let folder = try TestFolder()
        let kernel = try folder.file(
            "kernel",
            KernelFiles.multiboot(code: [
                0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0x13,  // cmp eax, 2bad_b002; jne failed
                0xf6, 0x03, 0x40, 0x74, 0x0e,  // test byte [ebx], 40; je failed: a memory map
                // The test device keeps a byte: mov al, 15; out e0, al; xor al, al; in al, e0
                0xb0, 0x15, 0xe6, 0xe0, 0x30, 0xc0, 0xe4, 0xe0,
                0x0f, 0xb6, 0xc0, 0xe7, 0xf4, 0xf4,  // movzx eax, al; out f4, eax; hlt
                0xb8, 0x01, 0x00, 0x00, 0x00, 0xe7, 0xf4, 0xf4,  // failed: out f4, 1
            ]))
        let apus = try RunningProgram.apus([
            "--kernel", kernel, "--accel", "tcg,\(tier)", "--debug-exit", "port=0xf4",
            "--test-device",
        ])
        #expect(try apus.wait() == 0x15 * 2 + 1)
        #expect(apus.errorText.isEmpty)
        let other = try RunningProgram.apus(["--kernel", kernel, "--debug-exit", "port=0x3f8"])
        #expect(try other.wait() == 1)
        #expect(other.errorText.contains("--debug-exit: port 1016 belongs to another device"))
    }

    static let hasEmulatedKVM =
        FileManager.default.isWritableFile(atPath: "/dev/kvm") && clinux_has_virtualisation() == 0

    @Test(
        "instructions that KVM cannot execute are mentioned, and then summed up",
        .enabled(if: hasEmulatedKVM, "the host has no KVM, or one that executes everything"))
    func fallbacks() throws {
        let folder = try TestFolder()
        let kernel = try folder.file("kernel", TinyKernel.countsBits)
        let apus = try RunningProgram.apus(["--kernel", kernel, "--accel", "kvm"])
        #expect(try apus.wait(seconds: 60) == 0)
        let lines = apus.errorText.split(separator: "\n").map(String.init)
        let told = lines.filter {
            $0.contains("KVM cannot execute f3 0f b8 c1 ") && $0.contains(" at RIP 0x1000005, so ")
        }
        #expect(told.count == 3)
        for count in [10, 100, 1000] {
            #expect(lines.contains { $0.contains("KVM cannot execute instructions, \(count) so") })
        }
        // And the warning that this KVM is emulated.
        #expect(lines.count == 7, "\(apus.errorText)")
    }

    @Test("it is made of the sources beside these tests")
    func age() throws {
        let binary = URL(fileURLWithPath: try #require(Setting.binary)).resolvingSymlinksInPath()
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let sources = try #require(
            FileManager.default.enumerator(
                at: root.appending(component: "Sources"), includingPropertiesForKeys: nil))
        func date(_ file: URL) throws -> Date {
            try #require(
                file.resourceValues(forKeys: [.contentModificationDateKey]).contentModificationDate)
        }
        let built = try date(binary)
        let newer = try sources.compactMap { $0 as? URL }.filter {
            try ["swift", "c", "h", "ld", "txt"].contains($0.pathExtension) && date($0) > built
        }
        #expect(
            newer.isEmpty, "\(binary.path) is older than these; build it again, as ./test does")
    }

    @Test("it is one static file")
    func isStatic() throws {
        let headers = try runTool("readelf", ["-lW", try #require(Setting.binary)])
        // A static-pie has a dynamic section, but no interpreter.
        #expect(headers.output.contains("DYN (Position-Independent Executable file)"))
        #expect(!headers.output.contains("INTERP"))
    }
}
