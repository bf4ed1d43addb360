import Core
import Foundation
import TestSupport
import Testing

@Suite("A shared folder", .needs(.guest), .serialized)
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

    @Test("files come and go both ways, whole", .timeLimit(.minutes(15)))
    func files() throws {
        _ = try onHost("dd if=/dev/urandom of=in bs=1M count=20 2>/dev/null; chmod 640 in")
        let guest = try start()
        let sum = "sha256sum <$f | cut -c 1-64"
        #expect(try guest.run("f=/run/m/in; \(sum)") == onHost("f=in; \(sum)"))
        #expect(
            try guest.run(
                "f=/run/m/out; dd if=/dev/urandom of=$f bs=1M count=20 2>/dev/null; \(sum)")
                == onHost("f=out; \(sum)"))
        #expect(try guest.run("stat -c '%a %s' /run/m/in") == "640 20971520")
        // Pieces of odd sizes at odd places.
        _ = try guest.run(
            "f=/run/m/odd; for i in 1 2 3 4 5 6 7 8 9; do dd if=/run/m/in of=$f bs=777 count=9 "
                + "skip=$i seek=$((i * 7)) conv=notrunc 2>/dev/null; done; sync")
        #expect(try guest.run("f=/run/m/odd; \(sum)") == onHost("f=odd; \(sum)"))
        #expect(
            try onHost("dd if=in bs=777 count=9 skip=9 2>/dev/null | sha256sum")
                == onHost("dd if=odd bs=777 count=9 skip=63 2>/dev/null | sha256sum"))
        #expect(try guest.powerOff() == 0)
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

    @Test("holes stay holes, and space is told", .timeLimit(.minutes(15)))
    func holes() throws {
        let guest = try start()
        _ = try guest.run(
            "cd /run/m; dd if=/dev/zero of=hole bs=4k count=1 seek=10000 2>/dev/null; "
                + "truncate -s 100M hole; fallocate -l 8M full; sync")
        #expect(try onHost("stat -c %s hole full") == "104857600\n8388608")
        #expect(try Int(onHost("stat -c %b hole")) ?? .max < 200)
        #expect(try Int(onHost("stat -c %b full")) ?? 0 >= 16384)
        #expect(try guest.run("df -k /run/m | tail -n 1 | wc -w") == "6")
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "what a guest's users make is theirs, and permissions hold",
        .needs(.root), .timeLimit(.minutes(15)))
    func users() throws {
        let guest = try start()
        _ = try guest.run(
            "cd /run/m; echo 'u:x:1234:4321::/:/bin/sh' >>/etc/passwd; echo 'u:x:4321:' >>/etc/group; "
                + "chmod 755 .; echo secret >s; chmod 600 s; mkdir -m 777 open; mkdir -m 700 mine; "
                + "chown u:u mine; su u -c 'echo x >mine/f; echo y >open/f; echo z >f; cat s'; "
                + "chmod 4755 open/f; sync")
        #expect(
            try onHost("stat -c '%u %g %a' mine mine/f open/f; ls f 2>/dev/null; cat s")
                == "1234 4321 700\n1234 4321 644\n1234 4321 4755\nsecret")
        #expect(try guest.run("su u -c 'cat /run/m/s' 2>/dev/null; echo $?") == "1")
        #expect(try guest.powerOff() == 0)
    }

    @Test("a guest does not leave the folder", .timeLimit(.minutes(15)))
    func escapes() throws {
        _ = try folder.file("outside", Array("secret".utf8))
        _ = try onHost(
            "ln -s ../outside up; ln -s '\(share)/../outside' far; ln -s / root; mkdir a")
        let guest = try start()
        for path in ["up", "far", "../outside", "a/../../outside", "root/..\(share)/../outside"] {
            #expect(
                try guest.run("cat /run/m/\(path) 2>/dev/null || echo no") == "no", "\(path)")
        }
        // Links lead to the guest's own files.
        #expect(
            try guest.run("cat /run/m/root/etc/passwd | head -n 1 | cut -d : -f 1,7")
                == "root:/bin/sh")
        #expect(try guest.run("ls -ia /run/m | awk '$2 == \".\" || $2 == \"..\"' | wc -l") == "2")
        _ = try guest.run("cd /run/m; mkfifo pipe; (echo x >pipe &); cat pipe >got; sync")
        #expect(try onHost("cat got") == "x")
        #expect(try guest.powerOff() == 0)
    }

    @Test("what is shared for reading stays as it is", .timeLimit(.minutes(15)))
    func readOnly() throws {
        _ = try onHost("echo there >file; mkdir folder")
        let before = try onHost("find . -printf '%p %s %T@ %C@\\n' | sort")
        let guest = try start(",readonly=on")
        #expect(try guest.run("cat /run/m/file") == "there")
        for command in [
            "echo x >/run/m/new", "echo x >/run/m/file", "rm -f /run/m/file", "mkdir /run/m/f",
            "rmdir /run/m/folder", "mv -f /run/m/file /run/m/x", "chmod 777 /run/m/file",
            "ln /run/m/file /run/m/x", "ln -s x /run/m/x", "truncate -s 0 /run/m/file",
            "touch /run/m/file",
        ] {
            #expect(try guest.run("{ \(command); } 2>/dev/null; echo $?") != "0", "\(command)")
        }
        #expect(try onHost("find . -printf '%p %s %T@ %C@\\n' | sort") == before)
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

    @Test("a guest that reboots mounts the folder again", .timeLimit(.minutes(15)))
    func reboot() throws {
        let guest = try start()
        _ = try guest.run("echo before >/run/m/file; exec 5</run/m/file; sync")
        let backend = try #require(process(of: guest))
        guest.send("reboot -f")
        try guest.awaitShell()
        #expect(try guest.run(Self.mount) == "ok")
        #expect(try guest.run("cat /run/m/file") == "before")
        #expect(process(of: guest) == backend)
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

    @Test(
        "the process is locked in, but for what files of all users take", .timeLimit(.minutes(15)))
    func lockedIn() throws {
        let guest = try start()
        let id = try #require(process(of: guest))
        let status = try String(contentsOfFile: "/proc/\(id)/status", encoding: .utf8)
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD and SETFCAP
        let mask = getuid() == 0 ? "00000000880000db" : "0000000000000000"
        for set in ["CapEff", "CapPrm", "CapBnd"] where getuid() == 0 || set != "CapBnd" {
            #expect(status.contains("\(set):\t\(mask)\n"), "\(set)")
        }
        #expect(status.contains("CapInh:\t0000000000000000\n"))
        #expect(status.contains("NoNewPrivs:\t1\n"))
        #expect(status.contains("Seccomp:\t2\n"))
        // Its root is empty.
        #expect(try runTool("ls", ["-A", "/proc/\(id)/root/"]).output.isEmpty)
        for kind in ["user", "mnt", "net", "ipc"] {
            let links = try ["self", "\(id)"].map {
                try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\($0)/ns/\(kind)")
            }
            #expect(links[0] != links[1], "\(kind)")
        }
        #expect(try guest.powerOff() == 0)
    }
}
