import Core
import Foundation
import Glibc
import TestSupport
import Testing

@Suite("A console with ports", .needs(.guest))
struct ConsoleTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("a shell on hvc0 and a named channel, also after the process was killed")
    func shell() throws {
        let guest = try Guest(
            [
                "--console",
                "listen=\(folder["tty"]),ports=[\"listen=\(folder["data"]),name=test.data\"]",
            ], in: folder)
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        guest.send("setsid sh -c 'sh </dev/hvc0 >/dev/hvc0 2>&1' &")
        let terminal = try SocketReader(folder["tty"])
        // What is typed before there is a prompt may be lost.
        try terminal.expect("# ", after: "")
        try terminal.expect("\n42\n", after: "\necho $((6 * 7))\n")
        let name = try guest.run("cat /sys/class/virtio-ports/*/name")
        #expect(name == "test.data")
        let port = try guest.run("ls /sys/class/virtio-ports | tail -n 1")
        // A port is open once at a time; without a reader there, reads end at once.
        guest.send("while :; do cat; usleep 50000; done <>/dev/\(port) >&0 2>/dev/null &")
        let text = String(repeating: "0123456789", count: 400) + "\n"
        try SocketReader(folder["data"]).expect(text, after: text)
        try guest.killConsole()
        try SocketReader(folder["tty"]).expect("\n49\n", after: "\necho $((7 * 7))\n")
        try SocketReader(folder["data"]).expect(text, after: text)
        #expect(try guest.powerOff() == 0)
    }

    @Test("readers come, go and sleep while output flows, and the process is killed")
    func readers() throws {
        let path = folder["tty"]
        let guest = try Guest(["--console", "listen=\(path),replay=8K"], in: folder)
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        let padding = String(repeating: "x", count: 500)
        guest.send(
            "i=0; (while :; do i=$((i + 1)); echo \"line $i \(padding)\"; done >/dev/hvc0) &")
        let asleep = try SocketReader(path)
        let first = try SocketReader(path)
        // More than the sleeper's socket takes; that does not hold up the guest, nor the others.
        try first.read(bytes: 400_000)
        let seen = try #require(first.numbers.last)
        #expect(first.numbers == Array(try #require(first.numbers.first)...seen))
        #expect(try guest.run("echo $((6 * 7))") == "42")
        try guest.killConsole()
        let again = try SocketReader(path)
        try again.read(bytes: 16_000)
        #expect(try #require(again.numbers.first) > seen)
        // Nothing is printed any more, so what comes late is what there was.
        #expect(try guest.run("kill $!; echo $?") == "0")
        let late = try SocketReader(path)
        try late.read(bytes: 8192)
        #expect(try #require(late.numbers.last) >= again.numbers.last ?? 0)
        #expect(asleep.text.isEmpty)
        guest.apus.kill()
    }

    @Test("standard output is the serial port's first and then the console's, also in later lives")
    func standardOutput() throws {
        let guest = try Guest(["--console", "stdio"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run("tty") == "/dev/hvc0")
        #expect(try guest.run("cat /sys/class/tty/console/active") == "ttyS0 hvc0")
        try guest.killConsole()
        #expect(try guest.run("echo $((7 * 7))") == "49")
        guest.send("reboot -f")
        try guest.awaitShell()
        #expect(try guest.run("tty") == "/dev/hvc0")
        #expect(try guest.powerOff() == 0)
    }

    @Test("a terminal's size is the guest's, its mode comes back, and Ctrl-A x ends the machine")
    func terminal() throws {
        let disk = folder["root.ext4"]
        try Guest.makeDisk(disk)
        let user = try UserTerminal([
            try #require(Setting.binary), "--kernel", Guest.path("vmlinuz"),
            "--initramfs", Guest.path("initramfs"), "--cmdline", Guest.commandLine,
            "--memory", "size=256M", "--disk", "path=\(disk)", "--console", "stdio",
        ])
        try user.expect("apus-guest: ready", seconds: 120)
        #expect(!user.isLineMode)
        user.resize(columns: 123, rows: 45)
        // The first may be read before the guest has heard of it.
        user.type("while :; do stty size; usleep 300000; done\n")
        try user.expect("45 123\n")
        user.type("\u{1}x")
        try user.expect("ended 6 in line mode")
    }

    @Test("apus-console by itself takes the terminal and gives it back", arguments: [true, false])
    func program(isKey: Bool) throws {
        let user = try UserTerminal([
            try #require(Setting.binary), "console", "--socket-path", folder["c"], "--console",
            "stdio",
        ])
        try user.awaitRawMode()
        if isKey { user.type("\u{1}x") } else { try user.signalProgram(SIGTERM) }
        try user.expect("ended 0 in line mode")
    }

    @Test("a client that closes before its input was wanted does not end apus-console")
    func earlyClient() throws {
        let path = folder["tty"]
        // No front end comes, so nobody wants input.
        let console = try RunningProgram.apus([
            "console", "--socket-path", folder["c"], "--console", "listen=\(path)",
        ])
        defer { console.kill() }
        try console.awaitListening(at: folder["c"])
        // It fails while as many wait as may.
        func join() throws -> SocketReader {
            for _ in 0..<1000 {
                if let reader = try? SocketReader(path) { return reader }
                usleep(10_000)
            }
            throw TestFailure("nobody is let in: \(console.errorText)")
        }
        try join().send(Array("before it is wanted\n".utf8))
        // What it has said is kept, so it is one of the 16 that there may be; who is turned away the
        // second time comes later than its end was noticed.
        let others = try (0..<15).map { _ in try join() }
        for _ in 0..<2 { _ = try join().readToEnd() }
        withExtendedLifetime(others) {}
        console.kill(SIGTERM)
        #expect(try console.wait() == 0)
        #expect(!console.errorText.contains("system call"))
    }

    @Test("apus attach hears its keys while the console takes no input")
    func attached() throws {
        let listener = try UnixListener(path: folder["c"])
        let user = try UserTerminal([
            try #require(Setting.binary), "attach", "--socket", folder["c"],
        ])
        try user.awaitRawMode()
        // More than the socket and the program take.
        let text = String(repeating: "x", count: 3000)
        for _ in 0..<200 {
            user.type(text)
            usleep(1000)
        }
        usleep(200_000)
        // What is typed while the terminal is full is lost.
        try user.expect("ended 0 in line mode", typing: "\u{1}x")
        withExtendedLifetime(listener) {}
    }

    @Test(
        "Debian's guest agent for QEMU answers, also after the process was killed",
        .needs(.agent))
    func agent() throws {
        let path = folder["agent"]
        try Guest.makeDisk(folder["root.ext4"], with: Guest.path("agent.d"))
        let guest = try Guest(
            ["--console", "null,ports=[\"listen=\(path),name=org.qemu.guest_agent.0\"]"], in: folder
        )
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        // What udev would do.
        guest.send(
            "mkdir -p /dev/virtio-ports /var/run; for p in /sys/class/virtio-ports/vport*; do"
                + " [ -s $p/name ] && ln -s ../${p##*/} /dev/virtio-ports/$(cat $p/name); done")
        guest.send("/usr/sbin/qemu-ga 2>&1 | sed 's/^/agent: /' &")
        var agent = try AgentClient(path, session: 1)
        #expect(try agent.ask("guest-ping") == "{}")
        #expect(try agent.ask("guest-info").contains("\"version\": \"7.2."))
        try guest.killConsole()
        agent = try AgentClient(path, session: 2)
        #expect(try agent.ask("guest-ping") == "{}")
        #expect(try agent.ask("guest-get-host-name") == "{\"host-name\": \"apus\"}")
        #expect(try guest.powerOff() == 0)
    }
}
