import Foundation
import TestSupport
import Testing

/// Backends that are not ours, and which end and come back.
@Suite("Foreign backends", .serialized, .needs(.guest))
struct ForeignBackendTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Starts a program and waits until it listens at `socket`.
    private func start(_ arguments: [String], listeningAt socket: String) throws -> RunningProgram {
        try? FileManager.default.removeItem(atPath: socket)
        let program = try RunningProgram("/usr/bin/env", arguments)
        let deadline = Date() + 20
        while !FileManager.default.fileExists(atPath: socket) {
            guard program.isRunning, Date() < deadline else {
                throw TestFailure("\(arguments[0]) does not listen: \(program.errorText)")
            }
            usleep(10_000)
        }
        return program
    }

    @Test(
        "QEMU's storage daemon serves the root disk, is killed while the guest writes, and nothing is lost",
        .timeLimit(.minutes(15)))
    func storageDaemon() throws {
        let (path, socket) = (folder["root.ext4"], folder["disk.sock"])
        try Guest.makeDisk(path)
        let command = [
            "qemu-storage-daemon", "--blockdev", "driver=file,node-name=disk,filename=\(path)",
            "--export",
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,"
                + "addr.path=\(socket)",
        ]
        var daemon = try start(command, listeningAt: socket)
        let guest = try Guest(diskArgument: "socket=\(socket)", in: folder)
        try guest.awaitShell()
        #expect(guest.apus.children.isEmpty)
        guest.send(
            "(for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/root/f$i bs=16k count=256 conv=fsync"
                + " 2>/dev/null || echo write >>/run/bad; done; touch /run/over)")
        for _ in 0..<3 {
            usleep(700_000)
            daemon.kill(SIGKILL)
            _ = try daemon.wait()
            daemon = try start(command, listeningAt: socket)
        }
        let sums = try guest.run(
            "until [ -e /run/over ]; do usleep 100000; done; cat /run/bad 2>/dev/null; sync;"
                + " echo 3 >/proc/sys/vm/drop_caches; cd /root; md5sum f?", seconds: 300)
        #expect(try guest.run("dmesg | grep -ci 'i/o error'") == "0")
        #expect(try guest.powerOff() == 0)
        daemon.kill(SIGTERM)
        _ = try daemon.wait()
        #expect(try guest.checkDisk() == "")
        let words = sums.split(separator: " ")
        #expect(words.count == 12, "\(sums)")
        for (sum, name) in stride(from: 0, to: words.count - 1, by: 2).map({
            (words[$0], words[$0 + 1])
        }) {
            _ = try guest.file("/root/\(name)")
            #expect(try md5(of: "\(folder.path)/copy") == sum)
        }
    }

    @Test(
        "QEMU's virtiofsd serves a folder, is killed, and the folder can be mounted again",
        .needs(.virtiofsd), .timeLimit(.minutes(15)))
    func virtiofsd() throws {
        let (share, socket) = (folder["share"], folder["fs.sock"])
        try FileManager.default.createDirectory(
            atPath: share, withIntermediateDirectories: false)
        try "from the host".write(toFile: "\(share)/file", atomically: false, encoding: .utf8)
        let command = [
            Means.virtiofsd, "--socket-path=\(socket)", "-o", "source=\(share)", "-o",
            "sandbox=chroot", "-o", "log_level=err",
        ]
        var daemon = try start(command, listeningAt: socket)
        let guest = try Guest(["--fs", "socket=\(socket),tag=share"], in: folder)
        try guest.awaitShell()
        let mount = "mkdir -p /run/m; mount -t virtiofs share /run/m"
        let before = try guest.run("modprobe virtiofs; \(mount) && cat /run/m/file")
        #expect(before == "from the host")
        for round in 1...2 {
            daemon.kill(SIGKILL)
            _ = try daemon.wait()
            daemon = try start(command, listeningAt: socket)
            // It has forgotten what the guest had open.
            let after = try guest.run(
                "umount /run/m; \(mount) && cat /run/m/file && echo \(round) >/run/m/written")
            #expect(after == "from the host")
            let written = try String(contentsOfFile: "\(share)/written", encoding: .utf8)
            #expect(written == "\(round)\n")
        }
        #expect(try guest.powerOff() == 0)
    }

    @Test(
        "a folder whose backend does not say its name needs one",
        .needs(.virtiofsd))
    func nameless() throws {
        let socket = folder["fs.sock"]
        let daemon = try start(
            [
                Means.virtiofsd, "--socket-path=\(socket)", "-o", "source=\(folder.path)", "-o",
                "sandbox=chroot", "-o", "log_level=err",
            ], listeningAt: socket)
        let kernel = try folder.file("kernel", TinyKernel.printsAndHalts)
        let apus = try RunningProgram.apus([
            "--kernel", kernel, "--serial", "null", "--vhost-user", "type=fs,socket=\(socket)",
        ])
        #expect(try apus.wait() == 1)
        #expect(apus.errorText.contains("do so with --fs socket=\(socket),tag=NAME"))
        daemon.kill(SIGKILL)
    }
}
