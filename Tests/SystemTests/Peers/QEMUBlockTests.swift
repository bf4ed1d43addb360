import Core
import Glibc
import TestSupport
import Testing

/// QEMU as the front end of `apus-block`.
@Suite(
    .enabled(if: QEMU.isThere, "there is no qemu-system-x86_64"),
    .enabled(if: Means.guest != nil, "there is no guest; ./test makes it"),
    .enabled(if: Means.apus != nil, "the executable is not built"),
    .serialized)
struct QEMUBlockTests {
    private let folder: ScratchFolder
    private let image: String
    private let guest: String

    init() throws {
        folder = try ScratchFolder()
        guest = try #require(Means.guest)
        image = folder.file("disk.ext4")
        // The root file system that ./test and quickstart use, in an image of its own.
        try Command.run(
            "/bin/sh", "-c",
            "mke2fs -q -t ext4 -E root_owner=0:0,lazy_itable_init=0 -d \(guest)/root.d \(image) 256M "
                + ">/dev/null")
    }

    private func size() -> Int {
        var status = stat()
        _ = unsafe stat(image, &status)
        return Int(status.st_blocks) * 512
    }

    /// The checksum of a file on the disk, as the host sees it, and whether the file system is sound.
    private func checksum(of file: String) throws -> String {
        try Command.run("/bin/sh", "-c", "e2fsck -fn \(image) >/dev/null 2>&1")
        let result = folder.file("sum")
        try Command.run(
            "/bin/sh", "-c", "debugfs -R 'cat \(file)' \(image) 2>/dev/null | sha256sum >\(result)")
        return String(decoding: try readFile(result).prefix(64), as: UTF8.self)
    }

    @Test("a guest boots from it, writes, discards and powers off", .timeLimit(.minutes(5)))
    func boot() throws {
        let server = try BlockServer(
            socket: folder.file("disk.sock"), disk: "path=\(image),serial=apus-test")
        let machine = try QEMU(
            "vm", in: folder, guest: guest, devices: QEMU.disk(server.socket))
        try machine.awaitShell()
        let console = machine.console
        #expect(try console.ask("ls /sys/block/vda/mq | wc -l") == "2")
        #expect(try console.ask("cat /sys/block/vda/serial") == "apus-test")
        #expect(try console.ask("cat /sys/block/vda/cache_type") == "write back")
        let sum = try console.ask(
            "dd if=/dev/urandom of=/root/data bs=1M count=32 2>/dev/null; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/data | cut -c 1-64")
        let before = size()
        #expect(
            try console.ask(
                "dd if=/dev/urandom of=/root/waste bs=1M count=32 2>/dev/null; sync; "
                    + "rm /root/waste; sync; fstrim / && echo done") == "done")
        #expect(size() < before + (8 << 20))
        try console.type("exit")
        #expect(machine.awaitEnd() == .exited(0))
        #expect(server.terminate() == .exited(0))
        #expect(try checksum(of: "/root/data") == sum)
    }

    @Test("a guest goes on when it is killed and started again", .timeLimit(.minutes(5)))
    func restart() throws {
        let server = try BlockServer(socket: folder.file("disk.sock"), disk: "path=\(image)")
        let machine = try QEMU(
            "vm", in: folder, guest: guest,
            devices: QEMU.disk(server.socket, options: ",reconnect=1"))
        try machine.awaitShell()
        let console = machine.console
        try console.start(
            "for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/root/part$i bs=64k count=48 "
                + "conv=fsync 2>/dev/null; done; cat /root/part? >/root/data; sync; "
                + "echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/data | cut -c 1-64")
        for _ in 0..<3 {
            usleep(700_000)
            server.kill()
            try server.restart()
        }
        let sum = try console.answer()
        #expect(
            try console.ask(
                "cat /root/part? | sha256sum | cut -c 1-64; dmesg | grep -c 'I/O error'")
                == "\(sum)\n0")
        try console.type("exit")
        #expect(machine.awaitEnd() == .exited(0))
        #expect(try checksum(of: "/root/data") == sum)
    }

    @Test("a guest migrates from one QEMU to another while it reads", .timeLimit(.minutes(5)))
    func migrate() throws {
        // Both ends have the image open, so neither can hold a lock.
        let disk = "path=\(image),lock=off"
        let servers = try [0, 1].map {
            try BlockServer(socket: folder.file("disk\($0).sock"), disk: disk)
        }
        let channel = folder.file("migration")
        let source = try QEMU(
            "source", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[0].socket, queues: 1))
        try source.awaitShell()
        let target = try QEMU(
            "target", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[1].socket, queues: 1) + ["-incoming", "unix:\(channel)"])
        // Reads go to memory that has to be migrated again: the dirty log's work.
        try source.console.start(
            "dd if=/dev/urandom of=/root/data bs=1M count=24 2>/dev/null; sync; "
                + "for i in 1 2 3 4 5 6 7 8; do echo 3 >/proc/sys/vm/drop_caches; "
                + "sha256sum </root/data | cut -c 1-64; done | uniq -c")
        sleep(2)
        let monitor = try source.monitor()
        try monitor.execute(
            #"{"execute": "migrate", "arguments": {"uri": "unix:\#(channel)"}}"#)
        let deadline = Clock.monotonic() + 120_000_000_000
        while true {
            let state = try monitor.execute(#"{"execute": "query-migrate"}"#)
            if state.contains("\"completed\"") { break }
            try #require(!state.contains("\"failed\""), "\(state)")
            try #require(Clock.monotonic() < deadline, "\(state)")
            usleep(100_000)
        }
        // The answer may have begun at the source; only its end is sure to come here.
        let answer = try target.console.wait(for: "}}")
        let words = answer.split(whereSeparator: { " {\n".contains($0) })
        let sum = String(try #require(words.last))
        #expect(words.dropLast().last == "8")
        #expect(
            try target.console.ask(
                "sha256sum </root/data | cut -c 1-64; dmesg | grep -c 'I/O error'")
                == "\(sum)\n0")
        try target.console.type("exit")
        #expect(target.awaitEnd() == .exited(0))
        #expect(try checksum(of: "/root/data") == sum)
    }
}
