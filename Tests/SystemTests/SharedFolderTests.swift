import Core
import Foundation
import TestSupport
import Testing

@Suite("A shared folder", .needs(.guest))
struct SharedFolderTests {
    let folder: TestFolder
    let share: String

    init() throws {
        folder = try TestFolder()
        share = folder["share"]
        try FileManager.default.createDirectory(atPath: share, withIntermediateDirectories: false)
    }

    static let mount =
        "modprobe virtiofs; mkdir -p /run/m; mount -t virtiofs share /run/m && echo ok"

    func start(_ options: String = "", _ arguments: [String] = []) throws -> Guest {
        let guest = try Guest(
            ["--fs", "path=\(share),tag=share\(options)"] + arguments, in: folder)
        try guest.awaitShell()
        #expect(try guest.run(Self.mount) == "ok")
        return guest
    }

    func onHost(_ script: String) throws -> String {
        let result = try runTool("sh", ["-c", "cd '\(share)' && \(script)"])
        return result.output.trimmingCharacters(in: .newlines)
    }

    @Test("a tree is copied, renamed, linked and removed", .timeLimit(.minutes(15)))
    func trees() throws {
        // Fewer than there are in the tree.
        let guest = try start(",rlimit-nofile=128")
        #expect(
            try guest.run(
                "cd /run/m; cp -a /bin /sbin tree 2>/dev/null; mkdir t; cp -a /bin t/; "
                    + "ls t/bin | wc -l; ls /bin | wc -l"
            ).split(separator: " ").count == 2)
        #expect(
            try guest.run("cd /run/m/t; [ $(ls bin | wc -l) = $(ls /bin | wc -l) ]; echo $?") == "0"
        )
        #expect(try guest.run("cmp /bin/busybox /run/m/t/bin/busybox; echo $?") == "0")
        #expect(try onHost("readlink t/bin/ls") == "busybox")
        _ = try guest.run(
            "cd /run/m; mv t u; echo one >a; ln a b; ln -s a c; mkfifo p; mv a d; rm b; "
                + "echo two >>d; mkdir -p x/y/z; rmdir x/y/z; touch -d '2001-02-03 04:05:06' d; sync"
        )
        #expect(try onHost("cat d; readlink c; ls -d [a-z]") == "one\ntwo\na\nc\nd\np\nu\nx")
        #expect(try onHost("stat -c '%h %Y' d") == "1 981173106")
        #expect(try onHost("find x -type d | sort") == "x\nx/y")
        #expect(try guest.run("cat /run/m/c 2>/dev/null; echo $?") == "1")
        #expect(try onHost("rm -r u; echo 3 >new; ls | tr '\\n' ' '").hasSuffix("new p x "))
        #expect(try guest.run("sleep 2; cat /run/m/new; ls /run/m/u 2>/dev/null; echo $?") == "3 1")
        #expect(try guest.run("rm -rf /run/m/*; ls -A /run/m | wc -l") == "0")
        #expect(try onHost("ls -A") == "")
        #expect(try guest.powerOff() == 0)
    }

    /// Calls that do something else in the guest than on the host.
    private static let differences: [(text: String, reason: String)] = [
        ("mknod(\"n\",", "nobody makes devices on the host: the process is in a user namespace"),
        ("mknod(\"b\",", "the same"), ("n: ", "so it is not there"), ("b: ", "the same"),
        ("unlink(\"p\") | unlink(\"n\")", "the same"),
        ("type 0 start 14", "of several who have locked the same to read, none is named"),
    ]

    @Test(
        "a file system in the guest does what the host's does, as POSIX has it",
        .needs(.root), .timeLimit(.minutes(15)))
    func posix() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("posix", on: disk, folder)
        _ = try onHost("mkdir guest; mkdir ../host; ../posix.tool ../host >../wanted")
        let guest = try start(",posix-lock=on,flock=on")
        #expect(try guest.run("posix /run/m/guest >/run/m/found; echo $?") == "0")
        try Self.comparePOSIX(wanted: folder["wanted"], found: "\(share)/found")
        #expect(try guest.powerOff() == 0)
    }

    /// Compares what the program `posix` has printed on the host and in a guest.
    static func comparePOSIX(wanted: String, found: String) throws {
        // Each line begins with its number in the source.
        let texts = try [wanted, found].map { path in
            try runTool("cut", ["-d", " ", "-f", "2-", path]).output.split(separator: "\n")
        }
        try #require(texts[0].count == texts[1].count)
        #expect(texts[0].count > 400)
        for (wanted, found) in zip(texts[0], texts[1]) where wanted != found {
            #expect(
                differences.contains { wanted.hasPrefix($0.text) },
                "on the host: \(wanted); in the guest: \(found)")
        }
    }

    /// How often a file is changed; many more by hand.
    private static let changes = Setting.environment["APUS_FSX"] ?? "400"

    @Test(
        "a file that is changed in all ways there are is what it must be", .timeLimit(.minutes(30)))
    func changes() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("fsx", on: disk, folder)
        _ = try onHost("mkdir ../second ../third")
        let guest = try start(
            "",
            [
                "--fs", "path=\(folder["second"]),tag=second,cache=always,writeback=on",
                "--fs", "path=\(folder["third"]),tag=third,cache=never",
            ])
        for (index, tag) in ["share", "second", "third"].enumerated() {
            let mount = "mkdir -p /run/\(tag); mount -t virtiofs \(tag) /run/\(tag); "
            #expect(
                try guest.run(
                    "\(mount) fsx /run/\(tag)/x \(index) \(Self.changes)", seconds: 600) == "clean",
                "\(tag)")
        }
        #expect(try guest.powerOff() == 0)
    }

    func process(of guest: Guest) -> Int32? {
        guest.apus.child("apus-fs")
    }

    @Test("one process serves one machine after the other", .timeLimit(.minutes(15)))
    func manyMachines() throws {
        let socket = folder["fs.sock"]
        let server = try RunningProgram.apus([
            "fs", "--socket-path=\(socket)", "--shared-dir", share, "--tag", "share",
        ])
        for round in 1...2 {
            let guest = try Guest(["--fs", "socket=\(socket)"], in: folder)
            try guest.awaitShell()
            #expect(try guest.run(Self.mount) == "ok")
            _ = try guest.run("echo \(round) >>/run/m/rounds; sync")
            if round == 1 {
                guest.apus.kill()
                _ = try guest.apus.wait(seconds: 30)
            } else {
                #expect(try guest.powerOff() == 0)
            }
        }
        #expect(try onHost("cat rounds") == "1\n2")
        #expect(server.isRunning)
        server.kill(SIGTERM)
        #expect(try server.wait(seconds: 10) == 0)
        #expect(server.errorText.isEmpty)
    }
}
