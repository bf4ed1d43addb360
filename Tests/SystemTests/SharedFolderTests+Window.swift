import Core
import Foundation
import TestSupport
import Testing

// Files that the guest's processors reach by a window, without requests (DAX).
extension SharedFolderTests {
    static let mountWindow =
        "modprobe virtiofs; mkdir -p /run/m; mount -t virtiofs -o dax=always share /run/m && echo ok"
    static let sums = "cat one two three | md5sum | cut -c 1-32"

    /// A guest with a window that has less room than the files of these tests take.
    private func startWindow(
        _ options: String = "", tools: [String] = []
    ) throws -> Guest {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        for tool in tools { try GuestTool.install(tool, on: disk, folder) }
        let guest = try Guest(
            ["--fs", "path=\(share),tag=share,cache-size=8M\(options)"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run(Self.mountWindow) == "ok")
        return guest
    }

    /// Kills the process, and waits for the next one.
    private func killProcess(of guest: Guest) throws {
        let id = try #require(process(of: guest))
        Glibc.kill(id, SIGKILL)
        let deadline = Date() + 20
        while process(of: guest).map({ $0 == id }) ?? true {
            guard Date() < deadline else { throw TestFailure("there is no other process") }
            usleep(10_000)
        }
    }

    @Test(
        "files that do not fit into the window are whole, also when the process is killed",
        .timeLimit(.minutes(15)))
    func windowed() throws {
        _ = try onHost(
            "for f in one:9 two:3 three:3; do "
                + "dd if=/dev/urandom of=${f%:*} bs=1M count=${f#*:} 2>/dev/null; done")
        let wanted = try onHost(Self.sums)
        let guest = try startWindow()
        #expect(try guest.run("cd /run/m; \(Self.sums)") == wanted)
        try killProcess(of: guest)
        #expect(try guest.run("cd /run/m; \(Self.sums)") == wanted)
        guest.send("(cd /run/m; \(Self.sums) >/tmp/sum; touch /tmp/over) &")
        for _ in 1...3 {
            usleep(100_000)
            try killProcess(of: guest)
        }
        #expect(
            try guest.run("until [ -e /tmp/over ]; do sleep 1; done; cat /tmp/sum") == wanted)
        // What the guest writes is there at once, and what the host writes as well.
        _ = try guest.run(
            "cp /run/m/one /run/m/copy; "
                + "printf from-the-guest | dd of=/run/m/one bs=1 seek=5000000 conv=notrunc 2>/dev/null"
        )
        #expect(try onHost("dd if=one bs=1 skip=5000000 count=14 2>/dev/null") == "from-the-guest")
        _ = try guest.run("head -c 14 /run/m/two")
        _ = try onHost("printf from-the-host | dd of=two conv=notrunc 2>/dev/null")
        #expect(try guest.run("head -c 13 /run/m/two") == "from-the-host")
        _ = try onHost("printf from-the-guest | dd of=copy bs=1 seek=5000000 conv=notrunc 2>&-")
        #expect(try onHost("cmp one copy && echo same") == "same")
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "a file that is changed in all ways through a window is what it must be",
        .timeLimit(.minutes(30)))
    func windowedChanges() throws {
        let guest = try startWindow(tools: ["fsx", "fswork"])
        #expect(try guest.run("fsx /run/m/x 7 400", seconds: 600) == "clean")
        guest.send("(fsx /run/m/x 8 400 >/tmp/result; touch /tmp/over) &")
        for _ in 1...4 {
            usleep(useconds_t.random(in: 100_000...500_000))
            try killProcess(of: guest)
        }
        #expect(
            try guest.run(
                "until [ -e /tmp/over ]; do sleep 1; done; cat /tmp/result", seconds: 600)
                == "clean")
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "a file that becomes shorter under a guest's hands does not end the machine",
        .timeLimit(.minutes(15)))
    func windowedTruncation() throws {
        _ = try onHost("dd if=/dev/urandom of=one bs=1M count=5 2>/dev/null")
        let guest = try startWindow(",cache=always")
        _ = try guest.run("md5sum /run/m/one")
        _ = try onHost("truncate -s 1M one")
        // The guest still believes in the old size.
        #expect(
            try guest.run("tail -c +1048577 /run/m/one | tr -d '\\0' | wc -c; echo alive")
                == "0 alive")
        #expect(guest.apus.errorText.contains("it finds zeroes"))
        #expect(try guest.powerOff() == 0)
    }

    @Test("a guest that reboots has an empty window", .timeLimit(.minutes(15)))
    func windowedReboot() throws {
        _ = try onHost("echo before >file")
        let guest = try startWindow()
        #expect(try guest.run("cat /run/m/file") == "before")
        guest.send("reboot -f")
        try guest.awaitShell()
        _ = try onHost("echo after >file")
        #expect(try guest.run(Self.mountWindow) == "ok")
        #expect(try guest.run("cat /run/m/file") == "after")
        // Where files say themselves that they are to be mapped.
        #expect(
            try guest.run(
                "umount /run/m; mount -t virtiofs share /run/m; cat /run/m/file; "
                    + "mount | grep -c 'type virtiofs'") == "after 1")
        #expect(try guest.powerOff() == 0)
    }
}
