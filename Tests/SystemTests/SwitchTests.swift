import Core
import Glibc
import TestSupport
import Testing

@Suite(
    "The switch", .needs(.guest, .namespaces))
struct SwitchTests {
    private let folder: TestFolder
    private let space: NetworkNamespace

    init() throws {
        folder = try TestFolder()
        space = try NetworkNamespace()
    }

    private func startSwitch() throws -> RunningProgram {
        let program = try RunningProgram.apus(
            ["switch", "--listen", folder["switch"], "--uplink", "tap,ifname=tap0"],
            prefix: space.prefix)
        let deadline = Clock.monotonic() + 10_000_000_000
        while (try? space.run("ip", "addr", "add", "10.0.2.1/24", "dev", "tap0")) == nil {
            guard program.isRunning, Clock.monotonic() < deadline else {
                throw TestFailure("no switch: \(program.errorText)")
            }
            usleep(20_000)
        }
        // What the guest knows of it stays true.
        _ = try space.run("ip", "link", "set", "tap0", "address", "02:00:00:00:00:99")
        return program
    }

    @Test(
        "a guest reaches its host by the up-link, also after the switch was killed",
        .timeLimit(.minutes(15)))
    func upLink() throws {
        var program = try startSwitch()
        let guest = try Guest(["--net", "stream,path=\(folder["switch"])"], in: TestFolder())
        try guest.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 10.0.2.2/24 dev eth0",
            "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")) == "up")
        let ping = "ping -c 3 -i 0.2 -W 10 10.0.2.1 | grep -c 'bytes from'"
        #expect(try guest.run(ping) != "0")
        program.kill()
        #expect(try program.wait() == -SIGKILL)
        program = try startSwitch()
        // The interface's process tries again at least every second.
        #expect(
            try guest.run(
                "for i in $(seq 10); do ping -c 1 -W 1 10.0.2.1 >/dev/null && break; done; \(ping)")
                != "0")
        #expect(try guest.powerOff() == 0)
        program.kill(SIGTERM)
        #expect(try program.wait() == 0)
        #expect(program.errorText == "")
    }
}

@Suite("A switch that serves guests' queues", .needs(.guest), .serialized)
struct SwitchedGuestTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private func startSwitch() throws -> RunningProgram {
        let ports = ["a", "b"].flatMap { ["--vhost", folder[$0]] }
        let program = try RunningProgram.apus(["switch"] + ports)
        let deadline = Clock.monotonic() + 10_000_000_000
        while unsafe access(folder["b"], F_OK) != 0 {
            guard program.isRunning, Clock.monotonic() < deadline else {
                throw TestFailure("no switch: \(program.errorText)")
            }
            usleep(20_000)
        }
        return program
    }

    private func boot(_ number: Int, _ port: String) throws -> Guest {
        let own = try TestFolder()
        try GuestTool.makeDisk(own["root.ext4"], with: GuestTool.iperf, own)
        let guest = try Guest(["--net", "socket=\(folder[port])"], in: own)
        try guest.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set lo up", "ip link set eth0 up",
            "ip addr add 10.0.3.\(number)/24 dev eth0", "mkdir -p /tmp", "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")) == "up")
        return guest
    }

    @Test(
        "two guests run iperf3, and what they send is whole, also when the switch is killed",
        .enabled(
            if: unsafe access(GuestTool.iperf, X_OK) == 0, "iperf3 is Debian's package of that name"
        ),
        .timeLimit(.minutes(15)))
    func transfers() throws {
        var program = try startSwitch()
        let server = try boot(1, "a")
        let client = try boot(2, "b")
        let features = Array(try server.run("cat /sys/class/net/eth0/device/features"))
        #expect([0, 1, 7, 8, 11, 12].allSatisfy { features.count == 64 && features[$0] == "1" })
        let size = Repetition.megabytes
        for direction in ["", "-R"] {
            server.send("\(GuestTool.iperf) -s -1 >/run/iperf 2>&1")
            let report = try client.run(
                "for i in $(seq 50); do \(GuestTool.iperf) -c 10.0.3.1 -n \(size)M -f m \(direction) "
                    + ">/run/iperf 2>&1 && break; usleep 200000; done; "
                    + "grep -E 'receiver|error' /run/iperf", seconds: 600)
            #expect(report.contains("receiver"), "\(report)")
            print("iperf3 \(direction): \(report)")
        }
        server.send(
            "mkfifo /run/hold; nc -l -p 5000 <>/run/hold | md5sum >/run/sum; echo all-is-here")
        client.send(
            "dd if=/dev/urandom of=/run/out bs=1M count=16; "
                + "until nc 10.0.3.1 5000 </run/out; do usleep 100000; done")
        usleep(1_000_000)
        program.kill()
        #expect(try program.wait() == -SIGKILL)
        program = try startSwitch()
        try server.apus.waitFor("\nall-is-here", seconds: 200)
        #expect(try server.run("cat /run/sum") == client.run("md5sum </run/out"))
        for guest in [client, server] { #expect(try guest.powerOff() == 0) }
        program.kill(SIGTERM)
        #expect(try program.wait() == 0)
    }
}
