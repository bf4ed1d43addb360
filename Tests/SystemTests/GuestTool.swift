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
}
