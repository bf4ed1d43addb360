import Foundation
import Glibc
import TestSupport
import Testing

/// Back ends under `vhost-user-conformance` (Tests/Conformance): ours, which may fail nothing, and
/// others, which show that the tool sees what is wrong. Each run is a part of all cases.
@Suite(
    "Conformance of back ends",
    .enabled(if: ConformanceRun.path != nil, "vhost-user-conformance is not built"), .serialized)
struct ConformanceTests {
    private let folder: TestFolder
    /// For images whose flush takes no time.
    private let memory: TestFolder

    init() throws {
        folder = try TestFolder()
        memory = try TestFolder(in: "/dev/shm")
    }

    @Test(
        "apus-block does as the specification says", .needs(.executable),
        .timeLimit(.minutes(15)))
    func apus() throws {
        let image = try memory.sparse("image", size: 16 << 20)
        try ConformanceRun.check(
            ["--every", "8"],
            [
                try #require(Means.apus), "block", "--socket-path={socket}", "--disk",
                "path=\(image)", "--log-level", "error",
            ],
            atLeast: 300,
            // Only root may look into a process that has locked itself in.
            countsDescriptors: geteuid() == 0)
    }

    @Test(
        "small back ends do as the specification says", .needs(.executable),
        .timeLimit(.minutes(15)),
        arguments: [
            ["rng"], ["console", "--console", "null"], ["net", "--net", "none"],
            ["vsock", "--vsock", "cid=3,path=FOLDER/guest"],
        ])
    func small(arguments: [String]) throws {
        let options = arguments.dropFirst().map {
            $0.replacingOccurrences(of: "FOLDER", with: folder.path)
        }
        try ConformanceRun.check(
            ["--device", arguments[0], "--every", "16"],
            [try #require(Means.apus), arguments[0], "--socket-path={socket}"] + options
                + ["--log-level", "error"],
            atLeast: 100, countsDescriptors: geteuid() == 0)
    }

    @Test(
        "apus-fs does as the specification says", .needs(.executable),
        .timeLimit(.minutes(15)))
    func sharedFolder() throws {
        try ConformanceRun.check(
            ["--device", "fs", "--every", "8"],
            [
                try #require(Means.apus), "fs", "--socket-path={socket}", "--fs",
                "path=\(folder.path),tag=share", "--log-level", "error",
            ],
            atLeast: 200, countsDescriptors: geteuid() == 0)
    }

    @Test(
        "apus-fs does so in a changed root as well", .needs(.executable, .root),
        .timeLimit(.minutes(15)))
    func changedRoot() throws {
        try ConformanceRun.check(
            ["--device", "fs", "--every", "60"],
            [
                try #require(Means.apus), "fs", "--socket-path={socket}", "--fs",
                "path=\(folder.path),tag=share", "--sandbox", "chroot", "--log-level", "error",
            ], atLeast: 30, countsDescriptors: true)
    }

    @Test(
        "qemu-storage-daemon fails what it is known to fail",
        .needs(.program("qemu-storage-daemon")), .timeLimit(.minutes(15)))
    func storageDaemon() throws {
        let image = try memory.sparse("image", size: 16 << 20)
        try ConformanceRun.check(
            ["--every", "15", "--known", ConformanceRun.known("qemu-storage-daemon-7.2")],
            [
                "qemu-storage-daemon", "--blockdev",
                "driver=file,node-name=disk,filename=\(image),locking=off", "--export",
                "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},"
                    + "writable=on,num-queues=2",
            ], atLeast: 100)
    }

    @Test(
        "QEMU's virtiofsd fails what it is known to fail",
        .needs(.virtiofsd),
        .timeLimit(.minutes(15)))
    func virtiofsd() throws {
        try ConformanceRun.check(
            [
                "--device", "fs", "--every", "15", "--known",
                ConformanceRun.known("virtiofsd-7.2"),
            ],
            [
                Means.virtiofsd, "--socket-path={socket}", "-o",
                "source=\(folder.path)", "-o", "sandbox=chroot", "-o", "log_level=err",
            ], atLeast: 50, countsDescriptors: false)
    }

    @Test("a wrong command line is said to be wrong")
    func usage() throws {
        for arguments in [[], ["--only", "nothing", "--list"], ["--device", "toaster"]] {
            let run = try RunningProgram(try #require(ConformanceRun.path), arguments)
            #expect(try run.wait(seconds: 10) == 2)
            #expect(run.errorText.hasPrefix("vhost-user-conformance: "))
        }
    }
}

/// A run of the tool.
enum ConformanceRun {
    /// The tool, beside the tests' own bundle.
    static let path: String? = CommandLine.arguments.compactMap { argument in
        argument.lastIndex(of: "/").map { "\(argument[..<$0])/vhost-user-conformance" }
    }.first(where: Means.isExecutable)

    /// The list of what a peer is known to fail.
    static func known(_ peer: String) -> String {
        let folder = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        return "/\(folder)/Conformance/Known/\(peer)"
    }

    /// - Parameters:
    ///   - minimum: the fewest cases that are to be run.
    ///   - countsDescriptors: whether leaks can be seen.
    static func check(
        _ options: [String], _ command: [String], atLeast minimum: Int,
        countsDescriptors: Bool = true
    ) throws {
        let run = try RunningProgram(
            try #require(path), ["--deadline", "3000"] + options + ["--"] + command)
        #expect(try run.wait(seconds: 600) == 0, "\(run.text)\n\(run.errorText)")
        // A run that tests nothing would pass as well.
        let lines = run.text.split(separator: "\n")
        let count = lines.first { $0.contains(" cases in ") }?.split(separator: " ").first
        #expect(try #require(count.flatMap { Int($0) }) >= minimum, "\(run.text)")
        let descriptors = lines.first { $0.hasPrefix("descriptors ") }
        #expect(descriptors?.hasPrefix("descriptors counted") == countsDescriptors, "\(run.text)")
    }
}
