import Foundation
import TestSupport
import Testing

// What one guest does with a folder, one after the other: each boot takes seconds.
extension SharedFolderTests {
    @Test(
        "files are whole, with holes, owners and permissions, nothing else is reached, and a reboot mounts again",
        .timeLimit(.minutes(15)))
    func use() throws {
        _ = try onHost("mkdir ../readonly")
        let guest = try start("", ["--fs", "path=\(folder["readonly"]),tag=ro,readonly=on"])
        try checkProcess(of: guest)
        try checkFiles(of: guest)
        try checkHoles(of: guest)
        if getuid() == 0 { try checkUsers(of: guest) }
        try checkEscapes(of: guest)
        try checkReadOnly(of: guest)
        try checkReboot(of: guest)
        #expect(try guest.powerOff() == 0)
    }

    /// Files come and go both ways.
    private func checkFiles(of guest: Guest) throws {
        _ = try onHost("dd if=/dev/urandom of=in bs=1M count=8 2>/dev/null; chmod 640 in")
        let sum = "md5sum <$f | cut -c 1-32"
        #expect(try guest.run("f=/run/m/in; \(sum)") == onHost("f=in; \(sum)"))
        #expect(
            try guest.run(
                "f=/run/m/out; dd if=/dev/urandom of=$f bs=1M count=8 2>/dev/null; \(sum)")
                == onHost("f=out; \(sum)"))
        #expect(try guest.run("stat -c '%a %s' /run/m/in") == "640 8388608")
        // Pieces of odd sizes at odd places.
        _ = try guest.run(
            "f=/run/m/odd; for i in 1 2 3 4 5 6 7 8 9; do dd if=/run/m/in of=$f bs=777 count=9 "
                + "skip=$i seek=$((i * 7)) conv=notrunc 2>/dev/null; done; sync")
        #expect(try guest.run("f=/run/m/odd; \(sum)") == onHost("f=odd; \(sum)"))
        #expect(
            try onHost("dd if=in bs=777 count=9 skip=9 2>/dev/null | md5sum")
                == onHost("dd if=odd bs=777 count=9 skip=63 2>/dev/null | md5sum"))
    }

    /// Holes stay holes, and space is told.
    private func checkHoles(of guest: Guest) throws {
        _ = try guest.run(
            "cd /run/m; dd if=/dev/zero of=hole bs=4k count=1 seek=10000 2>/dev/null; "
                + "truncate -s 100M hole; fallocate -l 8M full; sync")
        #expect(try onHost("stat -c %s hole full") == "104857600\n8388608")
        #expect(try Int(onHost("stat -c %b hole")) ?? .max < 200)
        #expect(try Int(onHost("stat -c %b full")) ?? 0 >= 16384)
        #expect(try guest.run("df -k /run/m | tail -n 1 | wc -w") == "6")
    }

    /// What a guest's users make is theirs, and permissions hold.
    private func checkUsers(of guest: Guest) throws {
        _ = try guest.run(
            "cd /run/m; echo 'u:x:1234:4321::/:/bin/sh' >>/etc/passwd; echo 'u:x:4321:' >>/etc/group; "
                + "chmod 755 .; echo secret >s; chmod 600 s; mkdir -m 777 open; mkdir -m 700 mine; "
                + "chown u:u mine; su u -c 'echo x >mine/f; echo y >open/f; echo z >f; cat s'; "
                + "chmod 4755 open/f; sync")
        #expect(
            try onHost("stat -c '%u %g %a' mine mine/f open/f; ls f 2>/dev/null; cat s")
                == "1234 4321 700\n1234 4321 644\n1234 4321 4755\nsecret")
        #expect(try guest.run("su u -c 'cat /run/m/s' 2>/dev/null; echo $?") == "1")
    }

    /// A guest does not leave the folder.
    private func checkEscapes(of guest: Guest) throws {
        _ = try folder.file("outside", Array("secret".utf8))
        _ = try onHost(
            "ln -s ../outside up; ln -s '\(share)/../outside' far; ln -s / root; mkdir a")
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
    }

    /// What is shared for reading stays as it is.
    private func checkReadOnly(of guest: Guest) throws {
        _ = try onHost("cd ../readonly; echo there >file; mkdir folder")
        let list = "cd ../readonly; find . -printf '%p %s %T@ %C@\\n' | sort"
        let before = try onHost(list)
        #expect(
            try guest.run("mkdir -p /run/ro; mount -t virtiofs ro /run/ro; cat /run/ro/file")
                == "there")
        for command in [
            "echo x >/run/ro/new", "echo x >/run/ro/file", "rm -f /run/ro/file", "mkdir /run/ro/f",
            "rmdir /run/ro/folder", "mv -f /run/ro/file /run/ro/x", "chmod 777 /run/ro/file",
            "ln /run/ro/file /run/ro/x", "ln -s x /run/ro/x", "truncate -s 0 /run/ro/file",
            "touch /run/ro/file",
        ] {
            #expect(try guest.run("{ \(command); } 2>/dev/null; echo $?") != "0", "\(command)")
        }
        #expect(try onHost(list) == before)
    }

    /// A guest that reboots mounts the folder again.
    private func checkReboot(of guest: Guest) throws {
        _ = try guest.run("echo before >/run/m/file; exec 5</run/m/file; sync")
        let backend = try #require(process(of: guest))
        guest.send("reboot -f")
        try guest.awaitShell()
        #expect(try guest.run(Self.mount) == "ok")
        #expect(try guest.run("cat /run/m/file") == "before")
        #expect(process(of: guest) == backend)
    }

    /// The process is locked in, but for what files of all users take.
    private func checkProcess(of guest: Guest) throws {
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
    }
}
