import Core
import Foundation
import TestSupport

/// Debian's kernel under the executable that is tested, with a root disk of the test's own, and its
/// shell on the serial port.
final class Guest {
    let folder: TestFolder
    let disk: String
    private(set) var apus: RunningProgram
    private var read = 0

    /// What the kernel is told. That it does not try its ciphers saves a third of a boot.
    static let commandLine = "root=/dev/vda quiet cryptomgr.notests"

    static func path(_ name: String) throws -> String {
        guard let guest = Setting.guest else { throw TestFailure("there is no guest") }
        return "\(guest)/\(name)"
    }

    /// Makes a disk and boots from it.
    /// - Parameters:
    ///   - arguments: further ones.
    ///   - diskArgument: what follows `--disk`; by default the new disk's path.
    ///   - commandLine: what the kernel is told.
    ///   - copy: a copy of the executable, to be started in its place.
    ///   - prefix: a command that becomes the one that follows it.
    init(
        _ arguments: [String] = [], diskArgument: String? = nil, in folder: TestFolder,
        commandLine: String = Guest.commandLine, copy: String? = nil, prefix: [String] = []
    ) throws {
        self.folder = folder
        disk = "\(folder.path)/root.ext4"
        if !FileManager.default.fileExists(atPath: disk) { try Self.makeDisk(disk) }
        apus = try RunningProgram.apus(
            [
                "--kernel", Self.path("vmlinuz"), "--initramfs", Self.path("initramfs"),
                "--cmdline", commandLine, "--memory", "size=256M",
                "--disk", diskArgument ?? "path=\(disk)",
            ] + arguments, copy: copy, prefix: prefix)
    }

    /// - Parameter folder: what is on the disk as well.
    static func makeDisk(_ path: String, size: String = "256M", with folder: String = "") throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().path
        let script = "cd '\(root)' && . examples/common.sh && make_disk '\(path)' \(size) \(folder)"
        let result = try runTool("bash", ["-c", script])
        guard result.code == 0 else { throw TestFailure("no disk: \(result.output)") }
    }

    /// Waits until the guest's shell takes commands.
    func awaitShell(seconds: Double = 120) throws {
        try wait(for: "apus-guest: ready", seconds: seconds)
        // What is typed before the prompt is echoed twice.
        try wait(for: "apus:~# ", seconds: seconds)
        // The shell wraps what it echoes at the terminal's width.
        apus.send("stty cols 500\n")
    }

    private func wait(for text: String, seconds: Double) throws {
        try apus.waitFor(text, after: read, seconds: seconds)
        let all = apus.text
        if let range = all.dropFirst(read).range(of: text) {
            read = all.distance(from: all.startIndex, to: range.upperBound)
        }
    }

    /// Sends a command whose end nobody waits for.
    func send(_ command: String) { apus.send(command + "\n") }

    /// Begins work that is done in the background, again and again until `endWork()`: however fast the
    /// machine is, it goes on as long as a test wants to disturb it.
    func beginWork(_ command: String) {
        // The prompt that stands there already is on a line of its own.
        send("(until [ -e /run/enough ]; do \(command); done; echo; echo all-is-done) &")
    }

    /// Waits for the present turn of the work that has begun; there is none after it.
    func endWork(seconds: Double = 300) throws {
        send("touch /run/enough")
        try apus.waitFor("\nall-is-done", seconds: seconds)
    }

    /// Runs a command and returns what it prints in one piece, line ends as spaces.
    func run(_ command: String, seconds: Double = 120) throws -> String {
        // The command's echo holds `<$(`, its answer does not.
        apus.send("echo \"<\"$(\(command))\">\"\n")
        try wait(for: "\n<", seconds: seconds)
        let start = read
        try wait(for: ">\n", seconds: seconds)
        return String(apus.text.dropFirst(start).prefix(read - start - 2))
    }

    /// Ends the shell, which powers the guest off.
    /// - Returns: the exit code.
    func powerOff() throws -> Int32 {
        send("exit")
        return try apus.wait(seconds: 120)
    }

    /// The backend process.
    var backend: (id: Int32, arguments: [String])? {
        apus.children.first { $0.arguments.first == "apus-block" }
    }

    /// What the host's `e2fsck` says of the disk; empty if it is clean.
    func checkDisk() throws -> String {
        let result = try runTool("e2fsck", ["-fn", disk])
        return result.code == 0 ? "" : result.output
    }

    /// A file on the disk, read on the host.
    func file(_ path: String) throws -> Data {
        let copy = "\(folder.path)/copy"
        let result = try runTool("debugfs", ["-R", "dump \(path) \(copy)", disk])
        guard result.code == 0 else { throw TestFailure("debugfs: \(result.output)") }
        return try Data(contentsOf: URL(fileURLWithPath: copy))
    }

    /// Bytes that the image takes on the host.
    var allocatedSize: Int64 {
        get throws {
            var status = stat()
            guard unsafe stat(disk, &status) == 0 else { throw TestFailure("stat \(disk)") }
            return Int64(status.st_blocks) * 512
        }
    }
}

/// The checksum that `sha1sum` prints.
func sha1(of path: String) throws -> String {
    let result = try runTool("sha1sum", [path])
    return String(result.output.prefix(40))
}

/// The checksum that `md5sum` prints, which takes an interpreted guest a quarter of the time of
/// `sha1sum`.
func md5(of path: String) throws -> String {
    let result = try runTool("md5sum", [path])
    return String(result.output.prefix(32))
}
