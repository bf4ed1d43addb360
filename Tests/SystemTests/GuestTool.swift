import Foundation
import TestSupport

/// A program of `Tests/GuestTools` for the guest, without libraries.
enum GuestTool {
    /// Builds it and puts it into `/bin` of a disk that is not in use.
    static func install(_ name: String, on disk: String, _ folder: TestFolder) throws {
        let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().path
        let program = folder[name + ".tool"]
        let built = try runTool(
            "clang", ["-O2", "-static", "-o", program, "\(tests)/GuestTools/\(name).c"])
        guard built.code == 0 else { throw TestFailure("\(name).c: \(built.output)") }
        for command in [
            "write \(program) /bin/\(name)", "set_inode_field /bin/\(name) mode 0100755",
        ] {
            let result = try runTool("debugfs", ["-w", "-R", command, disk])
            guard result.code == 0 else { throw TestFailure("debugfs: \(result.output)") }
        }
    }

    static let iperf = "/usr/bin/iperf3"

    /// Makes a disk that has a program of the host on it, with its libraries.
    static func makeDisk(_ disk: String, with program: String, _ folder: TestFolder) throws {
        let libraries = try runTool("ldd", [program])
        guard libraries.code == 0 else { throw TestFailure("ldd: \(libraries.output)") }
        let words = libraries.output.split(whereSeparator: \.isWhitespace)
        let files = [program] + words.filter { $0.hasPrefix("/") }.map(String.init)
        for file in files {
            let copied = try runTool("install", ["-D", file, folder["root"] + file])
            guard copied.code == 0 else { throw TestFailure("\(file): \(copied.output)") }
        }
        try Guest.makeDisk(disk, with: folder["root"])
    }
}
