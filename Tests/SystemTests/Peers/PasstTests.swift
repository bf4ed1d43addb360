import Core
import Glibc
import TestSupport
import Testing

/// `passt` at the other end of a stream: the host's sockets as the guest's network.
@Suite(
    .enabled(if: Setting.hasGuest),
    .enabled(if: Means.program("passt") != nil, "there is no passt"),
    .enabled(
        if: NetworkNamespace.isPossible, "namespaces and tap interfaces take root and /dev/net/tun")
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

    @Test("a guest fetches a page from its host", .timeLimit(.minutes(5)))
    func fetch() throws {
        let (folder, pages) = try (TestFolder(), TestFolder())
        try pages.file("page", (0..<(4 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 9) })
        let sum = try sha1(of: pages["page"])
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
            "wget -q -O /run/page http://192.0.2.1:8080/page", "sha1sum </run/page",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")).prefix(40) == sum)
        #expect(try guest.powerOff() == 0)
        #expect(server.isRunning)
    }
}
