import Core
import Glibc
import TestSupport
import Testing

@Suite(
    "The switch", .enabled(if: Setting.hasGuest),
    .enabled(
        if: NetworkNamespace.isPossible,
        "namespaces and tap interfaces take root and /dev/net/tun"))
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
        .timeLimit(.minutes(5)))
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
