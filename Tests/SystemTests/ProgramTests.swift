import Core
import Foundation
import Testing

@Suite("The executable", .enabled(if: Setting.hasBinary))
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
