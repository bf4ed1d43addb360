import Core
import Glibc
import TestSupport
import Testing

@Suite("A console with ports", .enabled(if: Setting.hasGuest), .serialized)
struct ConsoleTests {
    @Test("a shell on hvc0 and a named channel, also after the process was killed")
    func shell() throws {
        let folder = try TestFolder()
        let guest = try Guest(
            [
                "--console",
                "listen=\(folder["tty"]),ports=[\"listen=\(folder["data"]),name=test.data\"]",
            ], in: folder)
        try guest.awaitShell()
        try loadDriver(guest)
        guest.send("setsid sh -c 'sh </dev/hvc0 >/dev/hvc0 2>&1' &")
        try expectShell(at: folder["tty"], "echo $((6 * 7))", "42")
        let name = try guest.run("cat /sys/class/virtio-ports/*/name")
        #expect(name == "test.data")
        let port = try guest.run("ls /sys/class/virtio-ports | tail -n 1")
        // A port is open once at a time; without a reader there, reads end at once.
        guest.send("while :; do cat; usleep 50000; done <>/dev/\(port) >&0 2>/dev/null &")
        try expectEcho(at: folder["data"])
        let backend = try #require(
            guest.apus.children.first { $0.arguments.first == "apus-console" })
        kill(backend.id, SIGKILL)
        try expectShell(at: folder["tty"], "echo $((7 * 7))", "49")
        try expectEcho(at: folder["data"])
        #expect(try guest.powerOff() == 0)
    }

    /// The console appears a moment after its driver.
    private func loadDriver(_ guest: Guest) throws {
        let answer = try guest.run(
            "modprobe virtio_console; until [ -c /dev/hvc0 ]; do usleep 20000; done; echo there")
        #expect(answer == "there")
    }

    /// Types a command and waits for its answer.
    private func expectShell(at path: String, _ command: String, _ answer: String) throws {
        let client = try connect(path)
        try client.send(Array("\n\(command)\n".utf8))
        try expect(client, "\n\(answer)\n", within: 20)
    }

    private func expectEcho(at path: String) throws {
        let client = try connect(path)
        let text = String(repeating: "0123456789", count: 400) + "\n"
        try client.send(Array(text.utf8))
        try expect(client, text, within: 20)
    }

    private func connect(_ path: String) throws -> UnixSocket {
        try UnixSocket(connectingTo: path)
    }

    private func expect(_ client: UnixSocket, _ text: String, within seconds: UInt64) throws {
        let deadline = Clock.monotonic() + seconds * 1_000_000_000
        var all = ""
        while !all.contains(text), Clock.monotonic() < deadline {
            _ = client.waitReadable(timeoutMilliseconds: 100)
            if let got = try client.receive(upTo: 65536) {
                if got.bytes.isEmpty { break }
                let bytes = got.bytes.filter { $0 != UInt8(ascii: "\r") }
                all += String(decoding: bytes, as: UTF8.self)
            }
        }
        #expect(all.contains(text), "\(all.suffix(300))")
    }
}
