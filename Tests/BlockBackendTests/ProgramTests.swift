import CLinux
import Core
import Glibc
import TestSupport
import Testing

/// The program as a process: what it says, and its exit status.
@Suite("apus-block", .enabled(if: BuiltExecutable.path != nil))
struct ProgramTests {
    /// A running `apus-block` whose image is `image`; what it says goes to a file.
    private struct Program {
        let image: ScratchImage
        private let process: ChildProcess

        /// - Parameter arguments: `@` stands for the image's folder.
        init(_ arguments: [String], image: ScratchImage, fd: SharedFD? = nil) throws {
            self.image = image
            let own = arguments.map { argument in
                argument.split(separator: "@", omittingEmptySubsequences: false)
                    .joined(separator: image.folder.path)
            }
            process = try ChildProcess(
                path: "/bin/sh",
                arguments: [
                    "sh", "-c", "exec \"$@\" >\"$0\" 2>&1 </dev/null", image.folder["output"],
                    BuiltExecutable.path ?? "", "block",
                ] + own,
                environment: [], descriptors: fd.map { [(fd: $0, number: 3 as Int32)] } ?? [])
        }

        func terminate() { process.signal(SIGTERM) }

        /// Its exit status and the last line it said, without the program's name.
        func end() throws -> (status: ChildStatus?, text: String) {
            let status = process.wait(milliseconds: 20_000)
            let text = String(decoding: try readFile(image.folder["output"]), as: UTF8.self)
            let prefix = "apus-block: error: "
            let isSentence = text.hasPrefix(prefix) && text.hasSuffix("\n")
            return (status, isSentence ? String(text.dropFirst(prefix.count).dropLast()) : text)
        }
    }

    @Test(
        "what cannot work ends with one sentence: status 2 if the command line is wrong, else 1",
        arguments: [
            (["--fd=3", "--dsk=x"], 2, "unknown option '--dsk'; did you mean '--disk'?"),
            (["--fd=3"], 2, "one of --disk and --blk-file is needed"),
            (["--fd=3", "--blk-file=/nowhere"], 1, "image /nowhere: No such file or directory"),
            (["--fd=3", "--blk-file=@"], 1, " is a directory"),
            (["--fd=99", "--blk-file=@/disk.img"], 1, "Bad file descriptor"),
            (
                ["--socket-path=@/s", "--blk-file=@/disk.img", "--open-fds=[4]"], 1,
                "descriptor 4 of --open-fds cannot be used: Bad file descriptor"
            ),
            (
                ["--socket-path=@/s", "--blk-file=@/disk.img", "--open-fds=[0,1]"], 1,
                "an image is one open descriptor, or two with direct=on"
            ),
            (
                ["--fd=3", "--blk-file=@/disk.img", "--open-fds=[3]"], 2,
                "descriptor 3 of --open-fds is named twice"
            ),
            (["--fd=0", "--blk-file=@/disk.img"], 1, "Socket operation on non-socket"),
            (["--socket-path=@/no/s", "--blk-file=@/disk.img"], 1, "No such file or directory"),
            (
                ["--socket-path=@/disk.img", "--blk-file=@/disk.img"], 1,
                "another program uses it, or it is no socket"
            ),
            (
                ["--socket-path=@/\(String(repeating: "x", count: 110))", "--blk-file=@/disk.img"],
                1, "File name too long"
            ),
        ] as [([String], Int32, String)])
    func refusals(arguments: [String], status: Int32, sentence: String) throws {
        let image = try ScratchImage(pattern(4096))
        let end = try Program(arguments, image: image).end()
        #expect(end.status == .exited(status))
        #expect(end.text.hasSuffix(sentence) && !end.text.contains("\n"), "\(end.text)")
        #expect(try image.bytes == pattern(4096))
    }

    @Test(
        "descriptors that no front end can come through are refused",
        arguments: [
            (AF_INET, SOCK_STREAM, "Address family not supported by protocol"),
            (AF_UNIX, SOCK_DGRAM, "Protocol wrong type for socket"),
            (AF_UNIX, SOCK_STREAM, "Transport endpoint is not connected"),
        ])
    func wrongSockets(domain: Int32, type: __socket_type, reason: String) throws {
        let fd = SharedFD(owning: socket(domain, Int32(type.rawValue) | 0o2000000, 0))
        let image = try ScratchImage(size: 4096)
        let end = try Program(["--fd=3", "--blk-file=@/disk.img"], image: image, fd: fd).end()
        #expect(end.status == .exited(1))
        #expect(end.text == "descriptor 3 is no Unix socket to serve on: \(reason)")
    }

    @Test("it ends well when the front end of a connected socket leaves")
    func peerLeaves() throws {
        let (near, far) = try UnixSocket.pair()
        let image = try ScratchImage(size: 4096)
        let program = try Program(
            ["--fd=3", "--blk-file=@/disk.img"], image: image, fd: far.fd)
        shutdown(near.fd.rawValue, Int32(SHUT_RDWR))
        let end = try program.end()
        #expect(end.status == .exited(0))
        #expect(end.text == "")
    }

    /// In a sandbox a process does not see its socket's file any more.
    @Test(
        "a socket that a killed process has left is replaced, and removed in the end",
        arguments: [("on", true), ("off", false)])
    func staleSocket(sandbox: String, isLeft: Bool) throws {
        let image = try ScratchImage(size: 4096)
        let path = image.folder["s"]
        do {
            let stale = SharedFD(owning: try checking("socket", clinux_unix_socket()))
            _ = try checking("bind", unsafe clinux_unix_bind(stale.rawValue, path))
        }
        #expect(throws: SystemError.self) { try UnixSocket(connectingTo: path) }
        let program = try Program(
            ["--socket-path=@/s", "--blk-file=@/disk.img", "--sandbox", sandbox], image: image)
        let deadline = Clock.monotonic() + 20_000_000_000
        while (try? UnixSocket(connectingTo: path)) == nil, Clock.monotonic() < deadline {
            usleep(2000)
        }
        program.terminate()
        let end = try program.end()
        #expect(end.status == .exited(0))
        #expect(end.text == "")
        #expect(unsafe (access(path, F_OK) == 0) == isLeft)
    }
}
