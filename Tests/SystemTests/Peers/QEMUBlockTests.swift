import Core
import Glibc
import TestSupport
import Testing

/// QEMU as the front end of `apus-block`.
@Suite(
    .needsGuestOfQEMU,
    .serialized)
struct QEMUBlockTests {
    private let folder: TestFolder
    private let image: RootImage
    private let guest: String

    init() throws {
        folder = try TestFolder()
        guest = try #require(Means.guest)
        image = try RootImage(folder["disk.ext4"])
    }

    @Test("a guest boots from it, writes, discards and powers off", .timeLimit(.minutes(15)))
    func boot() throws {
        let server = try BlockServer(
            socket: folder["disk.sock"], disk: "path=\(image.path),serial=apus-test")
        let machine = try QEMU(
            "vm", in: folder, guest: guest, devices: QEMU.disk(server.socket))
        try machine.awaitShell()
        let console = machine.console
        #expect(try console.ask("ls /sys/block/vda/mq | wc -l") == "2")
        #expect(try console.ask("cat /sys/block/vda/serial") == "apus-test")
        #expect(try console.ask("cat /sys/block/vda/cache_type") == "write back")
        let sum = try console.ask(
            "dd if=/dev/urandom of=/root/data bs=1M count=32 2>/dev/null; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/data | cut -c 1-32")
        let before = image.size
        #expect(
            try console.ask(
                "dd if=/dev/urandom of=/root/waste bs=1M count=32 2>/dev/null; sync; "
                    + "rm /root/waste; sync; fstrim / && echo done") == "done")
        #expect(image.size < before + (8 << 20))
        try console.type("exit")
        #expect(machine.awaitEnd() == .exited(0))
        #expect(server.terminate() == .exited(0))
        #expect(try image.checksum(of: "/root/data") == sum)
    }

    @Test("a guest goes on when it is killed and started again", .timeLimit(.minutes(15)))
    func restart() throws {
        let server = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image.path)")
        let machine = try QEMU(
            "vm", in: folder, guest: guest,
            devices: QEMU.disk(server.socket, options: ",reconnect=1"))
        try machine.awaitShell()
        let console = machine.console
        try console.start(
            "for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/root/part$i bs=64k count=48 "
                + "conv=fsync 2>/dev/null; done; cat /root/part? >/root/data; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; md5sum </root/data | cut -c 1-32")
        for _ in 0..<3 {
            usleep(700_000)
            server.kill()
            try server.restart()
        }
        let sum = try console.answer()
        #expect(
            try console.ask(
                "cat /root/part? | md5sum | cut -c 1-32; dmesg | grep -c 'I/O error'")
                == "\(sum)\n0")
        try console.type("exit")
        #expect(machine.awaitEnd() == .exited(0))
        #expect(try image.checksum(of: "/root/data") == sum)
    }
}
