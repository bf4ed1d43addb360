import Core
import Glibc
import TestSupport
import Testing

/// `passt` at the other end of a stream: the host's sockets as the guest's network.
@Suite(
    .needs(.guest, .program("passt"), .namespaces)
)
struct PasstTests {
    /// A namespace that looks like a host with a network, which is what passt copies.
    private func makeSpace() throws -> NetworkNamespace {
        let space = try NetworkNamespace()
        _ = try space.run("tunctl", "-t", "wire")
        for link in ["lo", "wire"] { _ = try space.run("ip", "link", "set", link, "up") }
        _ = try space.run("ip", "addr", "add", "192.0.2.2/24", "dev", "wire")
        _ = try space.run("ip", "route", "add", "default", "via", "192.0.2.1")
        return space
    }

    @Test("a guest fetches a page from its host", .timeLimit(.minutes(15)))
    func fetch() throws {
        let (folder, pages) = try (TestFolder(), TestFolder())
        try pages.file("page", (0..<(4 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 9) })
        let sum = try md5(of: pages["page"])
        let space = try makeSpace()
        let start = { (arguments: [String]) throws in
            try RunningProgram("/usr/bin/env", space.prefix + arguments)
        }
        let server = try start(
            [Guest.path("busybox"), "httpd", "-f", "-p", "127.0.0.1:8080", "-h", pages.path])
        let socket = folder["passt"]
        // As root it would become nobody, to whom the folder does not belong.
        let passt = try start(["passt", "--foreground", "--runas", "0", "--socket", socket])
        let deadline = Clock.monotonic() + 10_000_000_000
        while !Means.exists(socket), passt.isRunning, Clock.monotonic() < deadline {
            usleep(10_000)
        }

        let guest = try Guest(["--net", "stream,path=\(socket)"], in: TestFolder())
        try guest.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 192.0.2.2/24 dev eth0",
            "ip route add default via 192.0.2.1",
            // The gateway stands for the host's own loopback interface.
            "wget -q -O /run/page http://192.0.2.1:8080/page", "md5sum </run/page",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")).prefix(32) == sum)
        #expect(try guest.powerOff() == 0)
        #expect(server.isRunning)
    }

    @Test(
        "a network of the host's sockets needs nothing else, and survives its process",
        .timeLimit(.minutes(15)))
    func user() throws {
        let (folder, pages) = try (TestFolder(), TestFolder())
        try pages.file(
            "page", (0..<(8 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 9) })
        let sum = try md5(of: pages["page"])
        let space = try makeSpace()
        let server = try RunningProgram(
            "/usr/bin/env",
            space.prefix + [
                Guest.path("busybox"), "httpd", "-f", "-p", "127.0.0.1:8080", "-h", pages.path,
            ])
        let guest = try Guest(
            ["--net", "user,tcp-ports=[5000:6000]"], in: folder, prefix: space.prefix)
        try guest.awaitShell()
        let passt = try #require(guest.apus.child("passt"))
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 192.0.2.2/24 dev eth0",
            "ip route add default via 192.0.2.1", "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")) == "up")
        guest.beginWork(
            "wget -q -O /run/page http://192.0.2.1:8080/page; md5sum </run/page >>/run/sums")
        var kills = 0
        let end = Clock.monotonic() + 120_000_000_000
        while kills < 8 {
            try #require(server.isRunning && Clock.monotonic() < end, "killed \(kills) times only")
            usleep(150_000)
            guard let backend = guest.apus.child("apus-net") else { continue }
            kill(backend, SIGKILL)
            kills += 1
        }
        try guest.endWork()
        #expect(try guest.run("sort -u /run/sums").prefix(33) == sum + " ")
        #expect(try guest.run("sort -u /run/sums | wc -l") == "1")
        // What reaches a port of the host reaches the guest.
        guest.send("echo hello >/run/word; nc -l -p 6000 </run/word &")
        // passt takes connections before the guest does.
        let ask = "until nc -w 5 127.0.0.1 5000 | grep .; do sleep 0.2; done"
        #expect(try space.run("sh", "-c", ask) == "hello\n")
        #expect(try guest.powerOff() == 0)
        let deadline = Clock.monotonic() + 5_000_000_000
        while isRunning(passt), Clock.monotonic() < deadline { usleep(20_000) }
        #expect(!isRunning(passt))
    }
}
