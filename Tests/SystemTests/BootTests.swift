import Core
import Foundation
import TestSupport
import Testing

/// The whole: kernel, CPU, devices, backend process.
@Suite("Debian's kernel boots", .needs(.guest))
struct BootTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("to a shell, its root disk served by another process; power-off exits with 0")
    func boot() throws {
        let guest = try Guest(["--boot-timing"], in: folder, commandLine: "root=/dev/vda quiet")
        try guest.awaitShell()
        #expect(try guest.run("uname -v").contains("Debian"))
        #expect(try guest.run("grep -c '^/dev/vda / ext4 ' /proc/mounts") == "1")
        #expect(guest.apus.children.filter { $0.arguments.first == "apus-block" }.count == 1)
        #expect(try guest.run("echo hello > /root/file && sync && cat /root/file") == "hello")
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
        #expect(try guest.file("/root/file") == Data("hello\n".utf8))
        for stage in ["options parsed", "first guest instruction", "first user-space line"] {
            #expect(guest.apus.errorText.contains(stage))
        }
    }

    @Test("two CPUs come up, share the work, and are there again after a reboot")
    func twoCPUs() throws {
        let guest = try Guest(["--cpus", "boot=2"], in: folder)
        for _ in 0..<2 {
            try guest.awaitShell()
            #expect(try guest.run("nproc") == "2")
            // Each CPU has had timer interrupts: it does run.
            let timers = "awk '/^ *LOC:/ { print ($2 > 0) + ($3 > 0) }' /proc/interrupts"
            #expect(try guest.run(timers) == "2")
            let sums = "for i in 0 1 2 3; do (head -c 8388608 /dev/zero | md5sum) & done"
            #expect(try guest.run("\(sums) | uniq | wc -l") == "1")
            guest.send("sync; reboot -f")
        }
        try guest.awaitShell()
        #expect(try guest.powerOff() == 0)
        #expect(try guest.checkDisk() == "")
    }

    @Test("a reboot starts again with the same backend, or exits with 3, and a panic with 4")
    func reboot() throws {
        let guest = try Guest(in: folder)
        try guest.awaitShell()
        let backend = guest.backend?.id
        guest.send("echo once > /root/file; sync; reboot -f")
        try guest.awaitShell()
        #expect(try guest.run("cat /root/file") == "once")
        #expect(guest.backend?.id == backend)
        guest.send("sync; echo c > /proc/sysrq-trigger")
        #expect(try guest.apus.wait() == 4)
        let again = try Guest(["--on-reboot", "exit"], in: folder)
        try again.awaitShell()
        again.send("sync; reboot -f")
        #expect(try again.apus.wait() == 3)
    }

    @Test("signals and the death of the VMM leave no process behind")
    func killed() throws {
        for (signal, code) in [(SIGTERM, 6), (SIGKILL, -SIGKILL)] as [(Int32, Int32)] {
            let machine = try TinyMachine(in: folder)
            let backend = try #require(machine.apus.child("apus-block"))
            machine.apus.kill(signal)
            #expect(try machine.apus.wait() == code)
            let deadline = Date() + 10
            while isRunning(backend), Date() < deadline { usleep(10_000) }
            #expect(!isRunning(backend))
        }
    }

    @Test(
        "two boots with counted time retire the same instructions and write the same to the disk",
        arguments: ["", ",num-queues=2,queue-size=20"])
    func deterministic(diskOptions: String) throws {
        let original = "\(folder.path)/original.ext4"
        try Guest.makeDisk(original, size: "64M")
        var reports: [String] = []
        for copy in ["one", "two"].map({ "\(folder.path)/\($0).ext4" }) {
            try FileManager.default.copyItem(atPath: original, toPath: copy)
            let apus = try RunningProgram.apus([
                "--kernel", Guest.path("vmlinuz"), "--initramfs", Guest.path("initramfs"),
                "--cmdline", "\(Guest.commandLine) apus.poweroff", "--memory", "size=256M",
                "--disk", "path=\(copy)\(diskOptions)",
                "--accel", "tcg,clock=counted", "--boot-timing",
            ])
            #expect(try apus.wait(seconds: 120) == 0)
            #expect(apus.text.contains("apus-guest: ready"))
            let count = apus.errorText.split(separator: "\n").first {
                $0.hasPrefix("instructions retired: ")
            }
            reports.append("\(try #require(count)) \(try sha1(of: copy))")
        }
        #expect(reports[0] == reports[1])
        #expect(try sha1(of: original) != reports[0].suffix(40))
    }
}
