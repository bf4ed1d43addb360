import Core
import Foundation
import TestSupport
import Testing

// Programs that were started by themselves, one in the place of the other.
extension SharedFolderTests {
    private func serve(at socket: String, _ arguments: [String] = []) throws -> RunningProgram {
        unsafe unlink(socket)
        let server = try RunningProgram.apus(
            ["fs", "--socket-path=\(socket)", "--shared-dir", share, "--tag", "share"] + arguments)
        try server.awaitListening(at: socket)
        return server
    }

    /// Starts the next one, which takes over, and ends the present one.
    private func replace(
        _ old: RunningProgram, of guest: Guest, at socket: String, _ arguments: [String] = []
    ) throws -> RunningProgram {
        let new = try serve(at: socket, arguments)
        guest.apus.kill(SIGUSR2)
        let deadline = Date() + 20
        while try old.isConnected || !new.isConnected {
            guard Date() < deadline else {
                throw TestFailure("the old one stays: \(guest.apus.errorText) \(new.errorText)")
            }
            usleep(20_000)
        }
        #expect(old.errorText == "")
        old.kill()
        return new
    }

    @Test(
        "a guest works on with its files when another program takes over",
        .timeLimit(.minutes(15)))
    func programReplaced() throws {
        let socket = folder["fs.sock"]
        var server = try serve(at: socket)
        let guest = try Guest(["--fs", "socket=\(socket)"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run(Self.mount) == "ok")
        _ = try guest.run("dd if=/dev/urandom of=/tmp/data bs=16k count=20 2>/dev/null; echo ok")
        // One file is open all the time, and is somewhere else by then.
        guest.send(
            "(cd /run/m; mkdir a b; exec 9>a/log; mv a/log b/moved; n=0; "
                + "until [ -e /tmp/stop ]; do n=$((n + 1)); echo \"line $n\" >&9; f=f$((n % 4)); "
                + "cat /tmp/data >a/$f && mv a/$f b/$f && cmp -s /tmp/data b/$f || "
                + "echo wrong $n >>/tmp/wrong; done; echo $n >/tmp/count; touch /tmp/over) &")
        _ = try guest.run("until [ -e /run/m/b/f3 ]; do sleep 1; done; echo ok")
        for round in 1...3 {
            server = try replace(server, of: guest, at: socket)
            let lines = try onHost("wc -l <b/moved")
            let deadline = Date() + 60
            while try onHost("wc -l <b/moved") == lines {
                guard Date() < deadline else {
                    throw TestFailure("round \(round): nothing goes on")
                }
                usleep(50_000)
            }
        }
        let count = try guest.run(
            "touch /tmp/stop; until [ -e /tmp/over ]; do sleep 1; done; cat /tmp/count")
        #expect(try guest.run("cat /tmp/wrong 2>/dev/null; dmesg | grep -ci 'stale'") == "0")
        #expect(
            try onHost("cat b/moved")
                == (1...(try #require(Int(count)))).map { "line \($0)" }
                .joined(separator: "\n"))
        let sum = try guest.run("md5sum </tmp/data | cut -c 1-32")
        for name in 0..<4 {
            #expect(try onHost("md5sum <b/f\(name) | cut -c 1-32") == sum)
        }
        #expect(try guest.powerOff() == 0)
        #expect(guest.apus.errorText == "")
        #expect(server.errorText == "")
    }

    @Test(
        "what a guest has mapped is taken over as well, and it goes on mapping",
        .timeLimit(.minutes(15)))
    func programReplacedWithWindow() throws {
        _ = try onHost(
            "for f in one:9 two:3 three:3 four:9; do "
                + "dd if=/dev/urandom of=${f%:*} bs=1M count=${f#*:} 2>/dev/null; done")
        let wanted = try onHost(Self.sums)
        let socket = folder["fs.sock"]
        let arguments = ["--cache-size=8M"]
        var server = try serve(at: socket, arguments)
        let guest = try Guest(["--fs", "socket=\(socket)"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run(Self.mountWindow) == "ok")
        #expect(try guest.run("cd /run/m; \(Self.sums)") == wanted)
        guest.send(
            "(cd /run/m; until [ -e /tmp/stop ]; do \(Self.sums); done | uniq >/tmp/sums; "
                + "touch /tmp/over) &")
        for _ in 1...3 {
            usleep(useconds_t.random(in: 200_000...600_000))
            server = try replace(server, of: guest, at: socket, arguments)
        }
        #expect(try guest.run("cd /run/m; \(Self.sums)") == wanted)
        _ = try guest.run(
            "printf from-the-guest | dd of=/run/m/four bs=1 seek=5000000 conv=notrunc 2>/dev/null")
        #expect(try onHost("dd if=four bs=1 skip=5000000 count=14 2>/dev/null") == "from-the-guest")
        #expect(
            try guest.run(
                "touch /tmp/stop; until [ -e /tmp/over ]; do sleep 1; done; cat /tmp/sums")
                == wanted)
        #expect(try guest.powerOff() == 0)
        #expect(guest.apus.errorText == "")
        #expect(server.errorText == "")
    }

    @Test(
        "with handles, files of all kinds are taken over as well",
        .needs(.root), .timeLimit(.minutes(15)))
    func programReplacedWithHandles() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        try GuestTool.install("fswork", on: disk, folder)
        let socket = folder["fs.sock"]
        let arguments = ["--sandbox=off", "--inode-file-handles=mandatory"]
        var server = try serve(at: socket, arguments)
        let guest = try Guest(["--fs", "socket=\(socket)"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run(Self.mount) == "ok")
        guest.send("(fswork /run/m 3 named >/tmp/result 2>&1; touch /tmp/over) &")
        for _ in 1...3 {
            usleep(useconds_t.random(in: 300_000...900_000))
            server = try replace(server, of: guest, at: socket, arguments)
        }
        try finishWork(of: guest)
        #expect(server.errorText == "")
    }
}
