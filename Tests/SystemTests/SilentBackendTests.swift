import Core
import Foundation
import TestSupport
import Testing

@Suite("Backends that do not answer", .serialized, .needs(.guest))
struct SilentBackendTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("hold up their own disk only, and not the machine's end")
    func silence() throws {
        let socket = "\(folder.path)/other.sock"
        let image = try folder.sparse("other.raw", size: 16 << 20)
        let server = try BlockServer(socket: socket, disk: "path=\(image)")
        let guest = try Guest(["--disk", "socket=\(socket)"], in: folder)
        try guest.awaitShell()
        #expect(try guest.run("cat /sys/block/vdb/size") == "32768")

        let (listener, first) = try Self.silence(server)
        let answer = try guest.run(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=2 2>/dev/null | wc -c",
            seconds: 3)
        #expect(answer == "2097152")
        _ = consume first

        // It tries again, and is asked to end at once.
        let next = try #require(try Self.accept(listener), "nobody connects again")
        #expect(next.waitReadable(timeoutMilliseconds: 3000))
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 9) == 6)
        #expect(guest.apus.errorText.contains("does not answer and is given up"))
    }

    @Test("do not add up their silence when the guest reboots")
    func reboot() throws {
        let servers = try ["b", "c"].map { name in
            let image = try folder.sparse("\(name).raw", size: 1 << 20)
            return try BlockServer(socket: "\(folder.path)/\(name).sock", disk: "path=\(image)")
        }
        let guest = try Guest(
            servers.flatMap { ["--disk", "socket=\($0.socket)"] } + ["--log-level", "info"],
            in: folder)
        try guest.awaitShell()
        // An attempt to talk to a backend ends after 5 seconds. When that to the first one ends,
        // the second to the other is under way.
        let other = try Self.silence(servers[1])
        usleep(1_500_000)
        let first = try Self.silence(servers[0])
        let start = Clock.monotonic()
        // Without the guest's own goodbye to its devices.
        guest.send("echo b > /proc/sysrq-trigger")
        let deadline = start + 30_000_000_000
        while guest.apus.errorText.components(separatedBy: "the kernel is loaded").count < 3,
            Clock.monotonic() < deadline
        { usleep(5000) }
        let milliseconds = (Clock.monotonic() - start) / 1_000_000
        #expect(milliseconds < 7000)
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 9) == 6)
        withExtendedLifetime((other, first)) {}
    }

    /// Puts somebody in a server's place who takes connections and says nothing.
    /// - Returns: who listens, and the connection on which the first request has come.
    private static func silence(
        _ server: BlockServer
    ) throws -> (listener: UnixListener, connection: UnixSocket) {
        server.kill()
        unsafe unlink(server.socket)
        let listener = try UnixListener(path: server.socket)
        let connection = try #require(try accept(listener), "nobody connects")
        #expect(connection.waitReadable(timeoutMilliseconds: 3000))
        return (listener, connection)
    }

    private static func accept(_ listener: UnixListener) throws -> UnixSocket? {
        let deadline = Clock.monotonic() + 10_000_000_000
        while Clock.monotonic() < deadline {
            if let socket = try listener.accept() { return socket }
            Clock.sleep(milliseconds: 5)
        }
        return nil
    }
}
