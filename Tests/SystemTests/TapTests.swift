import Core
import Glibc
import TestSupport
import Testing

@Suite(
    "Tap interfaces", .needs(.guest, .namespaces), .serialized)
struct TapTests {
    private let space: NetworkNamespace

    init() throws { space = try NetworkNamespace() }

    private func boot(_ net: String, cpus: Int) throws -> Guest {
        let guest = try Guest(
            ["--net", net, "--cpus", "boot=\(cpus)"], in: TestFolder(), prefix: space.prefix)
        try guest.awaitShell()
        _ = try space.run("ip", "addr", "add", "10.0.1.1/24", "dev", "tap0")
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 10.0.1.2/24 dev eth0",
            "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")) == "up")
        return guest
    }

    @Test(
        "a guest and its host talk with offloads, also while the interface's process is killed",
        .timeLimit(.minutes(15)), arguments: [1, 2])
    func transfers(_ queues: Int) throws {
        let guest = try boot("tap,ifname=tap0,queues=\(queues)", cpus: queues)
        #expect(
            try guest.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l") == String(queues))
        // Checksums and segments of TCP are the host's work, in both directions.
        let features = Array(try guest.run("cat /sys/class/net/eth0/device/features"))
        #expect([0, 1, 7, 8, 11, 12].allSatisfy { features.count == 64 && features[$0] == "1" })
        #expect(
            try space.run("ping", "-c", "2", "-W", "10", "10.0.1.2").contains(" 0% packet loss"))

        let folder = try TestFolder()
        let sent = try guest.run(
            "dd if=/dev/urandom of=/run/out bs=1M count=16 2>/dev/null; md5sum </run/out",
            seconds: 120)
        var kills = 0
        // A machine may be so fast that none falls into one transfer.
        for _ in 0..<30 + Repetition.kills where kills < Repetition.kills {
            let before = kills
            try sendToHost(guest, folder) {
                guard kills < before + 8 || Repetition.kills > kills else { return }
                kills += try replaceBackend(guest, byKilling: kills % 4 != 3) ? 1 : 0
            }
            #expect(try md5(of: folder["in"]) == sent.prefix(32))
        }
        #expect(kills >= Repetition.kills)
        print("queues: \(queues), kills and upgrades: \(kills)")

        let busybox = try Guest.path("busybox")
        guest.send(
            "mkfifo /run/hold; nc -l -p 5001 <>/run/hold | md5sum >/run/sum; echo all-is-here")
        let sender = try RunningProgram(
            "/usr/bin/env",
            space.prefix + [
                "sh", "-c",
                "until \(busybox) nc 10.0.1.2 5001 <\(folder["in"]); do sleep 0.1; done",
            ])
        try guest.apus.waitFor("\nall-is-here", seconds: 200)
        #expect(try guest.run("cat /run/sum") == sent)
        #expect(try sender.wait() == 0)
        #expect(try guest.powerOff() == 0)
    }

    /// Sends `/run/out` to the host.
    private func sendToHost(
        _ guest: Guest, _ folder: TestFolder, meanwhile: () throws -> Void
    ) throws {
        let busybox = try Guest.path("busybox")
        let hold = folder["hold"]
        let listener = try RunningProgram(
            "/usr/bin/env",
            space.prefix + [
                "sh", "-c",
                "rm -f \(hold); mkfifo \(hold); \(busybox) nc -l -p 5000 <>\(hold) "
                    + ">\(folder["in"]); echo got-it",
            ])
        guest.send("until nc 10.0.1.1 5000 </run/out; do usleep 100000; done")
        let start = Clock.monotonic()
        while !listener.text.contains("got-it"), listener.isRunning {
            try #require(Clock.monotonic() - start < 200_000_000_000, "it does not arrive")
            usleep(100_000)
            try meanwhile()
        }
        print("16 MiB in \((Clock.monotonic() - start) / 1_000_000) ms")
    }

    /// - Returns: whether there was a process.
    private func replaceBackend(_ guest: Guest, byKilling isKill: Bool) throws -> Bool {
        guard let victim = guest.apus.child("apus-net") else { return false }
        if isKill { kill(victim, SIGKILL) } else { guest.apus.kill(SIGUSR2) }
        return true
    }

    @Test(
        "an interface that cannot be used is an error",
        arguments: ["lo", "a-name-that-is-too-long"])
    func refused(_ name: String) throws {
        let binary = try #require(Setting.binary)
        let tool = space.prefix + [binary, "net", "--socket-path=x", "--net", "tap,ifname=\(name)"]
        let program = try RunningProgram("/usr/bin/env", tool)
        #expect(try program.wait() == 1)
        #expect(
            program.errorText.hasPrefix(
                "apus-net: error: the tap interface \(name) cannot be used: "))
    }
}
