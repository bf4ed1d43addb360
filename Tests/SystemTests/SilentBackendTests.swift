import Core
import Foundation
import TestSupport
import Testing

@Suite("Backends that do not answer", .serialized, .enabled(if: Setting.hasGuest))
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

        server.kill()
        unsafe unlink(socket)
        let listener = try UnixListener(path: socket)
        let connection = try #require(try Self.accept(listener), "nobody connects")
        // The first request has come, and gets no answer.
        #expect(connection.waitReadable(timeoutMilliseconds: 3000))
        let answer = try guest.run(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=8 2>/dev/null | wc -c",
            seconds: 3)
        #expect(answer == "8388608")

        // It tries again, and is asked to end at once.
        let next = try #require(try Self.accept(listener), "nobody connects again")
        #expect(next.waitReadable(timeoutMilliseconds: 3000))
        guest.apus.kill(SIGTERM)
        #expect(try guest.apus.wait(seconds: 9) == 6)
        #expect(guest.apus.errorText.contains("does not answer and is given up"))
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
