import Core
import Glibc
import TestSupport
import Testing

@Suite("Networks of guests", .needs(.guest), .serialized)
struct NetworkTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// A guest with an interface that has the address 10.0.0.`number`.
    private final class NetworkGuest {
        let guest: Guest

        init(_ number: Int, _ net: String) throws {
            guest = try Guest(["--net", net], in: TestFolder())
            try guest.awaitShell()
            let commands = [
                "modprobe virtio_net", "ip link set eth0 up",
                "ip addr add 10.0.0.\(number)/24 dev eth0", "echo up",
            ]
            let answer = try guest.run(commands.joined(separator: " && "))
            guard answer == "up" else { throw TestFailure("no interface: \(answer)") }
        }

        var backend: Int32? {
            guest.apus.child("apus-net")
        }

        func ping(_ number: Int) throws -> Bool {
            // The first may be lost while the other side is still looking for the link.
            let command = "ping -c 3 -i 0.2 -W 10 10.0.0.\(number) | grep -c 'bytes from'"
            return try Int(guest.run(command)) ?? 0 > 0
        }

        /// Waits for the carrier, as the device reports it.
        func hasCarrier() throws -> Bool {
            let wait = "for i in $(seq 50); do grep -q 1 carrier && break; usleep 100000; done"
            return try guest.run("cd /sys/class/net/eth0; \(wait); cat carrier") == "1"
        }
    }

    private static let transferSize = 16 << 20

    /// Sends random bytes from one guest to the other.
    /// - Parameter meanwhile: called again and again until all is there.
    /// - Returns: whether what arrived is what was sent.
    private func transfer(
        _ from: NetworkGuest, _ to: NetworkGuest, _ address: String,
        meanwhile: () throws -> Void = { usleep(100_000) }
    ) throws -> Bool {
        let megabytes = Self.transferSize >> 20
        let sent = try from.guest.run(
            "dd if=/dev/urandom of=/run/out bs=1M count=\(megabytes) 2>/dev/null; "
                + "md5sum </run/out", seconds: 300)
        let before = to.guest.apus.text.count
        // A pipe of which nobody reads the end: nc leaves when its input ends.
        to.guest.send(
            "rm -f /run/hold; mkfifo /run/hold; nc -l -p 5000 <>/run/hold | md5sum >/run/sum; "
                + "echo all-is-here")
        // Until somebody listens, connections are refused.
        from.guest.send("until nc \(address) 5000 </run/out; do usleep 100000; done")
        let deadline = Clock.monotonic() + 400_000_000_000
        while !to.guest.apus.text.dropFirst(before).contains("\nall-is-here"),
            Clock.monotonic() < deadline
        {
            try meanwhile()
        }
        return try to.guest.run("cat /run/sum") == sent
    }

    @Test(
        "two guests talk over a stream, also while their interfaces' processes are killed",
        .timeLimit(.minutes(15)))
    func stream() throws {
        let path = folder["wire"]
        let server = try NetworkGuest(1, "stream,server=on,path=\(path)")
        #expect(try server.guest.run("cat /sys/class/net/eth0/carrier") == "0")
        let client = try NetworkGuest(2, "stream,path=\(path),mac=52:54:00:12:34:56,mtu=1400")
        #expect(try server.hasCarrier())
        #expect(try client.hasCarrier())
        let address = try client.guest.run(
            "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu")
        #expect(address == "52:54:00:12:34:56 1400")
        #expect(try client.ping(1))
        #expect(try server.ping(2))

        var kills = 0
        // A machine may be so fast that few fall into one transfer.
        for _ in 0..<30 where kills < 4 {
            let isWhole = try transfer(client, server, "10.0.0.1") {
                usleep(kills % 2 == 0 ? 100_000 : 400_000)
                let victim = kills % 2 == 0 ? server.backend : client.backend
                if kills < 12, let victim {
                    kill(victim, SIGKILL)
                    kills += 1
                }
            }
            #expect(isWhole)
        }
        #expect(kills >= 4)
        for guest in [client, server] {
            #expect(try guest.guest.powerOff() == 0)
            #expect(!guest.guest.apus.errorText.contains("error:"))
        }
    }

    @Test("two guests reach each other over datagrams", .timeLimit(.minutes(15)))
    func datagrams() throws {
        let (a, b) = (folder["a"], folder["b"])
        let first = try NetworkGuest(1, "dgram,local=\(a),remote=\(b)")
        let second = try NetworkGuest(2, "dgram,local=\(b),remote=\(a)")
        #expect(try second.ping(1))
        #expect(try transfer(first, second, "10.0.0.2"))
        #expect(try first.guest.powerOff() == 0)
        #expect(try second.guest.powerOff() == 0)
    }
}
