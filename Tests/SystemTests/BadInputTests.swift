import CLinux
import Core
import Foundation
import TestSupport
import Testing

@Suite("Bad input ends with one sentence", .needs(.executable))
struct BadInputTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Runs the executable and checks that it says one sentence and ends with a code.
    /// - Parameter warning: what it says before.
    func check(
        _ arguments: [String], code: Int32, _ sentence: String, after warning: String? = nil
    ) throws {
        let apus = try RunningProgram.apus(arguments)
        #expect(try apus.wait(seconds: 10) == code)
        let lines = apus.errorText.split(separator: "\n")
        #expect(lines.count == (warning == nil ? 1 : 2), "\(apus.errorText)")
        #expect(lines.last?.contains(sentence) == true, "\(apus.errorText)")
        if let warning { #expect(lines.first?.contains(warning) == true, "\(apus.errorText)") }
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
        "Debian's kernel, truncated", .needs(.guest),
        arguments: [600, 20_000, 5_000_000, 14_000_000])
    func truncatedKernel(size: Int) throws {
        let whole = try Data(contentsOf: URL(fileURLWithPath: "\(Setting.guest ?? "")/vmlinuz"))
        let kernel = try folder.file("kernel", whole.prefix(size))
        try check(["--kernel", kernel], code: 1, "is truncated")
    }

    @Test("an initramfs that is missing, nonsense or truncated", .needs(.guest))
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

    @Test("more memory than the host has is a warning")
    func largeMemory() throws {
        let nonsense = try folder.file("nonsense", Data(repeating: 0x41, count: 100_000))
        let apus = try RunningProgram.apus(["--kernel", nonsense, "--memory", "size=8T"])
        #expect(try apus.wait(seconds: 10) == 1)
        #expect(apus.errorText.contains("8388608 MiB of memory are more than the host's"))
        #expect(apus.errorText.contains("neither a bzImage nor an ELF"))
    }

    @Test("memory that is too small", .needs(.guest))
    func smallMemory() throws {
        try check(
            ["--kernel", "\(Setting.guest ?? "")/vmlinuz", "--memory", "size=32M"], code: 1,
            "MiB of memory to start, the guest has 32 MiB")
    }

    // MARK: Disks

    func checkDisk(_ disk: String, _ sentence: String, after warning: String? = nil) throws {
        try check(
            ["--kernel", "\(Setting.guest ?? "")/vmlinuz", "--disk", disk], code: 1, sentence,
            after: warning)
    }

    @Test("an image that is missing, empty or busy", .needs(.guest))
    func images() throws {
        try checkDisk("path=/nowhere", "No such file or directory")
        try checkDisk("path=\(folder.path)", "directory")
        let image = try folder.sparse("image", size: 1 << 20)
        let other = try RunningProgram.apus([
            "block", "--socket-path=\(folder.path)/other.sock", "--disk", "path=\(image)",
        ])
        let deadline = Date() + 5
        while !FileManager.default.fileExists(atPath: "\(folder.path)/other.sock"),
            Date() < deadline
        {
            usleep(10_000)
        }
        try checkDisk("path=\(image)", "in use")
        other.kill(SIGTERM)
        #expect(try other.wait() == 0)
    }

    @Test("a backend that is absent or speaks nonsense", .needs(.guest))
    func backends() throws {
        let nowhere = "\(folder.path)/nowhere"
        let sentence = "no back end answers at \(nowhere): No such file or directory"
        try checkDisk("socket=\(nowhere)", sentence, after: "\(sentence); it is waited for")
        let busy = "\(folder.path)/busy.sock"
        let silent = try UnixListener(path: busy)
        let question = "does not answer; does it serve another machine?"
        try checkDisk("socket=\(busy)", question, after: question)
        withExtendedLifetime(silent) {}
        try checkDisk("socket=\(folder.path)/", "a path that ends in / names a folder")
        let path = "\(folder.path)/nonsense.sock"
        let listener = try UnixListener(path: path)
        let thread = try Core.Thread(name: "nonsense") {
            while true {
                if let socket = try? listener.accept() {
                    _ = try? socket.send(Array(repeating: 0x41, count: 64), fds: [])
                    usleep(500_000)
                    return
                }
                usleep(10_000)
            }
        }
        try checkDisk("socket=\(path)", "the back end cannot be used")
        thread.join()
    }

    @Test(
        "closed standard streams do not become the guest's", arguments: ["<&-", ">&-", "<&- >&-"])
    func closedStreams(streams: String) throws {
        let kernel = try folder.file("kernel", TinyKernel.printsAndPowersOff)
        let apus = try RunningProgram(
            "/bin/sh",
            ["-c", "exec \"$0\" --kernel \"$1\" \(streams)", Setting.binary ?? "", kernel])
        #expect(try apus.wait(seconds: 20) == 0)
        #expect(apus.errorText == "")
        #expect(apus.text == (streams.contains(">") ? "" : "hello\n"))
    }

    @Test("output that nobody reads is reported once, and the guest goes on")
    func closedPipe() throws {
        let kernel = try folder.file("kernel", TinyKernel.printsAndPowersOff)
        let apus = try RunningProgram(
            "/bin/bash",
            [
                "-c", "set -o pipefail; (sleep 0.5; \"$0\" --kernel \"$1\") | true",
                Setting.binary ?? "", kernel,
            ])
        #expect(try apus.wait(seconds: 20) == 0)
        #expect(apus.errorText == "apus: warning: console: output is lost: write: Broken pipe\n")
    }

    @Test("a terminal that nobody reads does not keep the machine, and gets its mode back")
    func stalledTerminal() throws {
        // SAFETY: paths live for the calls.
        let near = SharedFD(owning: unsafe open("/dev/ptmx", O_RDWR | O_NOCTTY))
        var number: Int32 = 0
        let (unlock, getNumber): (UInt, UInt) = (0x4004_5431, 0x8004_5430)  // TIOCSPTLCK, TIOCGPTN
        for request in [unlock, getNumber] {
            // SAFETY: both take a pointer to an `int`, which lives for the call.
            let result = unsafe withUnsafeMutablePointer(to: &number) {
                clinux_ioctl(near.rawValue, request, UInt(bitPattern: $0))
            }
            #expect(result == 0)
        }
        let name = "/dev/pts/\(number)"
        let far = SharedFD(owning: unsafe open(name, O_RDWR | O_NOCTTY))
        func isRaw() -> Bool {
            var mode = termios()
            // SAFETY: `mode` lives for the call.
            unsafe _ = tcgetattr(far.rawValue, &mode)
            return mode.c_lflag & tcflag_t(ICANON) == 0
        }
        let kernel = try folder.file("kernel", TinyKernel.printsForEver)
        let apus = try RunningProgram(
            "/bin/sh",
            [
                "-c", "exec \"$0\" --kernel \"$1\" <\"$2\" >\"$2\"", Setting.binary ?? "", kernel,
                name,
            ])
        let deadline = Date() + 10
        while !isRaw(), Date() < deadline { usleep(10_000) }
        #expect(isRaw())
        // Time to fill the terminal's buffer.
        usleep(1_000_000)
        apus.kill(SIGTERM)
        #expect(try apus.wait(seconds: 10) == 6)
        #expect(!isRaw())
    }

    @Test("a triple fault exits with 5")
    func tripleFault() throws {
        let kernel = try folder.file("kernel", TinyKernel.faults)
        let apus = try RunningProgram.apus(["--kernel", kernel, "--serial", "null"])
        #expect(try apus.wait(seconds: 20) == 5)
        #expect(
            apus.errorText
                == "apus: warning: machine: the guest's CPU stopped with a triple fault\n")
    }
}
