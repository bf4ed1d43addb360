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
        var attempt: UnixSocket? = consume first
        var isServed = false
        // All of it happens while one attempt to talk to the other is under way, which ends after 5
        // seconds. The machine may be too slow for that now and then.
        for _ in 0..<10 where !isServed {
            let present = try #require(
                try attempt ?? Self.accept(listener), "nobody connects again")
            attempt = nil
            #expect(
                try guest.run(
                    "echo 3 > /proc/sys/vm/drop_caches; "
                        + "dd if=/dev/vda bs=1M count=2 2>/dev/null | wc -c") == "2097152")
            isServed = try !present.hasEnded()
        }
        #expect(isServed)

        // It tries again, and is asked to end at once.
        let next = try #require(try Self.accept(listener), "nobody connects again")
        #expect(next.waitReadable(timeoutMilliseconds: 3000))
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 9) == 6)
        #expect(guest.apus.errorText.contains("does not answer and is given up"))
    }

    @Test("do not add up their silence when the guest reboots")
    func reboot() throws {
        // A machine may be so slow that the next attempt ends before the kernel is loaded.
        var isAlone = false
        for round in 1...3 where !isAlone { isAlone = try rebootsWithoutFurtherAttempt(round) }
        #expect(isAlone)
    }

    /// Reboots a guest of which two disks do not answer.
    /// - Returns: whether that takes no longer than one attempt to talk to either.
    private func rebootsWithoutFurtherAttempt(_ round: Int) throws -> Bool {
        let servers = try ["b\(round)", "c\(round)"].map { name in
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
        // Without the guest's own goodbye to its devices.
        guest.send("echo b > /proc/sysrq-trigger")
        var attempts = [other.connection]
        let deadline = Clock.monotonic() + 120_000_000_000
        var isLoaded = false
        while !isLoaded {
            try #require(Clock.monotonic() < deadline, "it does not reboot")
            usleep(5000)
            // This first: what has ended when it is looked for afterwards may have ended before.
            isLoaded =
                guest.apus.errorText.components(separatedBy: "the kernel is loaded").count >= 3
            if let next = try other.listener.accept() { attempts.append(next) }
        }
        let ended = try attempts.filter { try $0.hasEnded() }
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 9) == 6)
        withExtendedLifetime(first) {}
        return attempts.count == 2 && ended.count == 1
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

extension UnixSocket {
    /// Whether the peer has closed it.
    fileprivate func hasEnded() throws -> Bool {
        while let received = try receive(upTo: 4096) {
            if received.bytes.isEmpty { return true }
        }
        return false
    }
}
