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
    private let folder: TestFolder
    private let image: String
    private let guest: String

    init() throws {
        folder = try TestFolder()
        guest = try #require(Means.guest)
        image = folder["disk.ext4"]
        // The root file system that ./test and quickstart use, in an image of its own.
        try Command.run(
            "/bin/sh", "-c",
            "mke2fs -q -t ext4 -E root_owner=0:0,lazy_itable_init=0 -d \(guest)/root.d \(image) "
                + "256M >/dev/null")
    }

    private func size() -> Int {
        var status = stat()
        _ = unsafe stat(image, &status)
        return Int(status.st_blocks) * 512
    }

    /// The checksum of a file on the disk, as the host sees it, and whether the file system is
    /// sound.
    private func checksum(of file: String) throws -> String {
        try Command.run("/bin/sh", "-c", "e2fsck -fn \(image) >/dev/null 2>&1")
        let result = folder["sum"]
        try Command.run(
            "/bin/sh", "-c", "debugfs -R 'cat \(file)' \(image) 2>/dev/null | sha256sum >\(result)")
        return String(decoding: try readFile(result).prefix(64), as: UTF8.self)
    }

    @Test("a guest boots from it, writes, discards and powers off", .timeLimit(.minutes(5)))
    func boot() throws {
        let server = try BlockServer(
            socket: folder["disk.sock"], disk: "path=\(image),serial=apus-test")
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
        let server = try BlockServer(socket: folder["disk.sock"], disk: "path=\(image)")
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

    /// What the guest does while it migrates: it writes files whose checksums it takes from what it
    /// meant to write, and reads others back from the disk. A page that the back end changed and
    /// that was not migrated shows as a wrong checksum here or as a damaged file system at the end.
    private static let migrationLoad = """
        n=0; steps=0; bad=0; while [ ! -e /run/stop ]; do f=part$((n % 6)); \
        dd if=/dev/urandom bs=64k count=16 2>/dev/null | tee $f | sha256sum >/run/$f; sync; \
        echo 3 >/proc/sys/vm/drop_caches; \
        for g in part*; do sha256sum <$g | cmp -s - /run/$g || bad=$((bad + 1)); \
        steps=$((steps + 1)); echo $steps >/run/steps; done; \
        n=$((n + 1)); echo $n >/run/rounds; echo $bad >/run/bad; done; echo load-is-over >/run/over
        """

    @Test(
        "a guest migrates from one QEMU to another while it writes and reads",
        .timeLimit(.minutes(5)))
    func migrate() throws {
        // Both ends have the image open, so neither can hold a lock.
        let disk = "path=\(image),lock=off"
        let servers = try [0, 1].map {
            try BlockServer(socket: folder["disk\($0).sock"], disk: disk)
        }
        let channel = folder["migration"]
        let source = try QEMU(
            "source", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[0].socket, queues: 1))
        try source.awaitShell()
        let target = try QEMU(
            "target", in: folder, guest: guest, processor: .flushing,
            devices: QEMU.disk(servers[1].socket, queues: 1) + ["-incoming", "unix:\(channel)"])
        try source.console.type("(\(Self.migrationLoad)) &")
        try awaitRounds(2, on: source.console)
        let before = try count("steps", on: source.console)
        try migrate(source, to: channel)
        #expect(try count("steps", on: target.console) > before)
        try awaitRounds(try count("rounds", on: target.console) + 6, on: target.console)
        let console = target.console
        #expect(
            try console.ask("touch /run/stop; while [ ! -e /run/over ]; do sleep 1; done; echo ok")
                == "ok")
        #expect(try console.ask("cat /run/bad; dmesg | grep -c 'I/O error'") == "0\n0")
        let sums = try (0..<6).map { try console.ask("cut -c 1-64 /run/part\($0)") }
        try console.type("exit")
        #expect(target.awaitEnd() == .exited(0))
        for (index, sum) in sums.enumerated() {
            #expect(sum.count == 64)
            #expect(try checksum(of: "/root/part\(index)") == sum)
        }
    }

    /// How many `rounds` (of writing a file and checking all) or `steps` (of checking one) the
    /// guest's load has done.
    private func count(_ name: String, on console: GuestConsole) throws -> Int {
        Int(try console.ask("cat /run/\(name)")) ?? 0
    }

    private func awaitRounds(_ wanted: Int, on console: GuestConsole) throws {
        let deadline = Clock.monotonic() + 60_000_000_000
        while try count("rounds", on: console) < wanted {
            try #require(Clock.monotonic() < deadline, "the guest does not get on")
            usleep(200_000)
        }
    }

    /// Migrates a machine to the one that listens on `channel`, and waits until that is over.
    private func migrate(_ source: QEMU, to channel: String) throws {
        let monitor = try source.monitor()
        try monitor.execute(
            #"{"execute": "migrate", "arguments": {"uri": "unix:\#(channel)"}}"#)
        let deadline = Clock.monotonic() + 120_000_000_000
        while true {
            let state = try monitor.execute(#"{"execute": "query-migrate"}"#)
            if state.contains("\"completed\"") { return }
            try #require(!state.contains("\"failed\""), "\(state)")
            try #require(Clock.monotonic() < deadline, "\(state)")
            usleep(100_000)
        }
    }
}
