import Core
import Glibc
import TestSupport
import Testing

/// QEMU as the front end of `apus-net`, and at the other end of its stream.
@Suite(
    .needsGuestOfQEMU,
    .serialized)
struct QEMUNetworkTests {
    private let folder: TestFolder
    private let guest: String

    init() throws {
        folder = try TestFolder()
        guest = try #require(Means.guest)
    }

    private func boot(_ name: String, _ devices: [String]) throws -> QEMU {
        let disk = folder["\(name).ext4"]
        try Command.run(
            "/bin/sh", "-c",
            "mke2fs -q -t ext4 -E root_owner=0:0,lazy_itable_init=0 -d \(guest)/root.d \(disk) "
                + "64M >/dev/null")
        return try QEMU(
            name, in: folder, guest: guest,
            devices: ["-drive", "file=\(disk),format=raw,if=virtio"] + devices)
    }

    private func startInterface(_ machine: QEMU, _ number: Int) throws {
        try machine.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up",
            "ip addr add 10.0.0.\(number)/24 dev eth0", "echo up",
        ]
        #expect(try machine.console.ask(commands.joined(separator: " && ")) == "up")
    }

    @Test(
        "guests of QEMU talk through it, also after it was killed", .timeLimit(.minutes(15)))
    func talk() throws {
        let (socket, wire) = (folder["net.sock"], folder["wire"])
        let arguments = [
            "net", "--socket-path=\(socket)", "--net", "stream,server=on,path=\(wire)",
        ]
        let apus = try #require(Means.apus)
        var server = try Command.start(apus, arguments)
        while !Means.exists(socket) { usleep(5_000) }
        // With MSI-X, QEMU 7.2's emulated CPUs crash it when vhost-user starts a network interface.
        let ours = try boot(
            "ours",
            [
                "-chardev", "socket,id=c0,path=\(socket),reconnect=1",
                "-netdev", "vhost-user,id=n0,chardev=c0",
                "-device", "virtio-net-pci,netdev=n0,romfile=,vectors=0",
            ])
        let theirs = try boot(
            "theirs",
            [
                "-netdev", "stream,id=n0,server=off,addr.type=unix,addr.path=\(wire)",
                "-device", "virtio-net-pci,netdev=n0,romfile=",
            ])
        try startInterface(ours, 1)
        try startInterface(theirs, 2)
        let ping = "ping -c 3 -i 0.2 -W 10 10.0.0.1 | grep -c 'bytes from'"
        #expect(try theirs.console.ask(ping) == "3")
        // This peer does not connect again, but its machine goes on.
        server.kill()
        server = try Command.start(apus, arguments)
        let carrier = "/sys/class/net/eth0/carrier"
        let wait = "for i in $(seq 60); do grep -q 1 \(carrier) && break; sleep 1; done"
        #expect(
            try ours.console.ask(
                "sleep 2; \(wait); ip link show eth0 | grep -c eth0; cat \(carrier)") == "1\n1")
        for machine in [ours, theirs] {
            try machine.console.type("exit")
            #expect(machine.awaitEnd() == .exited(0))
        }
        server.signal(SIGTERM)
        #expect(server.wait() == .exited(0))
    }
}
