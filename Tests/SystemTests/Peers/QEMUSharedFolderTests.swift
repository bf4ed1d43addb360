import Core
import Glibc
import TestSupport
import Testing

/// QEMU as the front end of `apus-fs`.
@Suite(
    .needsGuestOfQEMU,
    .serialized)
struct QEMUSharedFolderTests {
    @Test("a guest reads and writes, and another one after it", .timeLimit(.minutes(15)))
    func share() throws {
        let folder = try TestFolder()
        let guest = try #require(Means.guest)
        let (image, share, socket) = (folder["disk.ext4"], folder["share"], folder["fs.sock"])
        try Guest.makeDisk(image)
        try GuestTool.install("posix", on: image, folder)
        try Command.run(
            "/bin/sh", "-c",
            "cd \(folder.path); mkdir share host; dd if=/dev/urandom of=share/in bs=1M count=8 "
                + "2>/dev/null; ./posix.tool host >wanted")
        let disk = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image)")
        // Without a tag there is no configuration space, over which this QEMU would stumble.
        let server = try Command.start(
            try #require(Means.apus), ["fs", "--socket-path=\(socket)", "--shared-dir=\(share)"])
        let deadline = Clock.monotonic() + 10_000_000_000
        while !Means.exists(socket), Clock.monotonic() < deadline { usleep(5_000) }
        for round in 1...2 {
            let machine = try QEMU(
                "vm\(round)", in: folder, guest: guest,
                devices: QEMU.disk(disk.socket) + [
                    "-chardev", "socket,id=fs,path=\(socket)",
                    "-device", "vhost-user-fs-pci,chardev=fs,tag=share",
                ])
            try machine.awaitShell()
            let console = machine.console
            #expect(
                try console.ask(
                    "modprobe virtiofs; mkdir -p /run/m; mount -t virtiofs share /run/m && echo ok")
                    == "ok")
            let sum = try console.ask("md5sum </run/m/in | cut -c 1-32")
            try Command.run(
                "/bin/sh", "-c", "[ $(md5sum <\(share)/in | cut -c 1-32) = \(sum) ]")
            let written = try console.ask(
                "cd /run/m; mkdir d\(round); cp in d\(round)/out; ln -s out d\(round)/l; sync; "
                    + "md5sum <d\(round)/out | cut -c 1-32")
            #expect(written == sum)
            try Command.run("/bin/sh", "-c", "cmp \(share)/in \(share)/d\(round)/out")
            try Command.run("/bin/sh", "-c", "[ $(readlink \(share)/d\(round)/l) = out ]")
            // As in a guest of Apus (SharedFolderTests), once.
            if round == 1, geteuid() == 0 {
                #expect(
                    try console.ask("mkdir /run/m/p; posix /run/m/p >/run/m/found; echo $?") == "0")
                try SharedFolderTests.comparePOSIX(
                    wanted: folder["wanted"], found: "\(share)/found")
            }
            try console.type("exit")
            #expect(machine.awaitEnd() == .exited(0))
        }
        server.signal(SIGTERM)
        #expect(server.wait() == .exited(0))
    }
}
