import Foundation
import TestSupport
import Testing

/// Guests whose code is translated to host code.
@Suite("Debian's kernel is translated", .serialized, .needs(.guest))
struct TranslatorTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("it boots, computes what the host computes, and powers off", arguments: [1, 2])
    func boot(cpuCount: Int) throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("vectors", on: disk, folder)
        // All that the host's processor has, and the least that there is.
        let model = cpuCount == 1 ? "x86-64-v2" : "max"
        let guest = try Guest(
            ["--cpus", "boot=\(cpuCount)", "--cpu", model, "--accel", "tcg,tier=translator"],
            in: folder)
        try guest.awaitShell()
        #expect(try guest.run("nproc") == "\(cpuCount)")
        // A megabyte of zeroes.
        let sums = "for i in 0 1 2 3; do (head -c 1048576 /dev/zero | sha1sum) & done"
        let wanted = "3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3"
        #expect(try guest.run("\(sums) | sort -u | cut -d' ' -f1") == wanted)
        #expect(
            try guest.run("seq 1 3000 | awk '{ s += $1 / 4 } END { print s }'") == "1125375")
        let native = try runTool(folder["vectors.tool"], []).output
        #expect(
            try guest.run("vectors")
                == (cpuCount == 1 ? "no AVX2" : native.trimmingCharacters(in: .newlines)))
        #expect(try guest.run("echo hello > /root/file && sync && cat /root/file") == "hello")
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
    }

    @Test("with counted time it retires the same instructions as the interpreter")
    func counted() throws {
        let original = "\(folder.path)/original.ext4"
        try Guest.makeDisk(original, size: "64M")
        var reports: Set<String> = []
        for (run, tier) in ["interpreter", "translator", "translator"].enumerated() {
            let copy = "\(folder.path)/copy.ext4"
            try? FileManager.default.removeItem(atPath: copy)
            try FileManager.default.copyItem(atPath: original, toPath: copy)
            let dump = "\(folder.path)/dump"
            // One with so little room that code is given up all the time.
            let more = ["", ",code-cache=6M", ",dump=\(dump)"][run]
            let apus = try RunningProgram.apus([
                "--kernel", Guest.path("vmlinuz"), "--initramfs", Guest.path("initramfs"),
                "--cmdline", "root=/dev/vda quiet apus.poweroff", "--memory", "size=256M",
                "--disk", "path=\(copy)", "--accel",
                "tcg,clock=counted,tier=\(tier),stats,perf-map\(more)",
                "--boot-timing",
            ])
            let map = "/tmp/perf-\(apus.id).map"
            defer { try? FileManager.default.removeItem(atPath: map) }
            #expect(try apus.wait(seconds: 300) == 0)
            let count = apus.errorText.split(separator: "\n").first {
                $0.hasPrefix("instructions retired: ")
            }
            // What the CPU has counted follows.
            let words = try #require(count).split(separator: " ")
            let total = "\(words.last ?? "") retired, "
            #expect(apus.errorText.contains(" \(total)"), "\(apus.errorText)")
            let hasTranslated = apus.errorText.contains("\n  translated blocks ")
            #expect(hasTranslated == (tier == "translator"))
            let line = apus.errorText.split(separator: "\n").first { $0.hasPrefix("  evictions ") }
            let evictions = Int(try #require(line).split(separator: " ")[1]) ?? -1
            #expect((evictions > 100) == (run == 1), "\(evictions)")
            // The sandboxed process has named the guest's code.
            let names = try String(contentsOfFile: map, encoding: .utf8)
            #expect(names.contains(" guest:ffffffff8") == (tier == "translator"))
            #expect(names.contains(" user trace ") == (tier == "translator"))
            if run == 2 { try list(dump) }
            reports.insert("\(try #require(count)) \(try sha1(of: copy))")
        }
        #expect(reports.count == 1, "\(reports)")
    }

    /// Shows a block of the kernel's, if there is Python.
    private func list(_ dump: String) throws {
        // All of it are some 50 MB.
        let file = try #require(FileHandle(forReadingAtPath: dump))
        let text = String(decoding: try #require(try file.read(upToCount: 4 << 20)), as: UTF8.self)
        let lines = text.split(separator: "\n")
        let line = try #require(lines.first { $0.hasPrefix("block ffffffff") })
        let address = String(line.dropFirst(6).prefix(16))
        try text.write(toFile: "\(dump).part", atomically: false, encoding: .utf8)
        guard try runTool("python3", ["--version"]).code == 0 else { return }
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let (code, listing) = try runTool(
            "\(root.path)/Tools/list-code", ["\(dump).part", "--guest", address])
        #expect(code == 0)
        // The first instruction, and next to it the host's.
        let both = listing.split(separator: "\n").filter { $0.hasPrefix("  \(address)  ") }
        #expect(both.contains { $0.split(separator: " ").count >= 4 }, "\(listing.prefix(2000))")
        #expect(listing.contains("(entry)") && listing.contains("-- what runs rarely --"))
    }
}
