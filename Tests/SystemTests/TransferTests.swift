import Core
import Foundation
import TestSupport
import Testing

/// What goes through each kind of network: `ping`, iperf3, and bytes whose checksum is compared, in both
/// directions. `APUS_MEGABYTES` says how many; without it, a few, and by a tap interface only.
@Suite(
    "What goes through networks", .needs(.guest, .program("iperf3"), .namespaces), .serialized)
struct TransferTests {
    enum Way: String, CaseIterable {
        /// Four queues, to the host.
        case tap
        /// `passt`, to the host.
        case user
        /// A stream from one machine to the other.
        case pair
        /// A switch, to the host by its up-link.
        case `switch`
        /// QEMU is the front end; four queues of a tap interface, to the host.
        case qemu

        static var chosen: [Way] {
            Repetition.isLong ? allCases.filter { $0 != .qemu || QEMU.isThere } : [.tap]
        }
    }

    private let folder: TestFolder
    private let space: NetworkNamespace

    init() throws {
        folder = try TestFolder()
        space = try NetworkNamespace()
    }

    @Test("they carry iperf3 and whole bytes", .timeLimit(.minutes(60)), arguments: Way.chosen)
    func transfers(_ way: Way) throws {
        let pair = try connect(way)
        let ping = "ping -c 5 -i 0.2 -W 10 \(pair.far.address) | grep -c 'bytes from'"
        #expect(try pair.near.run(ping) == "5")
        for direction in ["", "-R"] {
            try pair.far.start("\(GuestTool.iperf) -s -1", "server\(direction)")
            let report = try pair.near.run(
                "for i in $(seq 50); do \(GuestTool.iperf) -c \(pair.far.address) -P \(pair.streams) "
                    + "-n \(Repetition.megabytes / pair.streams)M -f m \(direction) >/run/iperf 2>&1 "
                    + "&& break; usleep 200000; done; grep -E 'receiver|error' /run/iperf | tail -n 1",
                seconds: 1200)
            #expect(report.contains("receiver"), "\(report)")
            print("\(way.rawValue) iperf3 \(direction): \(report)")
        }
        try check(from: pair.near, to: pair.far, way)
        if way != .user { try check(from: pair.far, to: pair.near, way) }
        try pair.near.shell?.powerOff()
    }

    /// Sends bytes, and compares their checksum with that of what arrives.
    private func check(from sender: Station, to receiver: Station, _ way: Way) throws {
        let content = "for i in $(seq \(max(Repetition.megabytes / 16, 1))); do cat out; done"
        _ = try sender.run("dd if=/dev/urandom of=out bs=1M count=16 2>/dev/null")
        let sum = try sender.run("(\(content)) | sha1sum", seconds: 1200)
        let begin = Clock.monotonic()
        // A pipe of which nobody reads the end: nc leaves when its input ends.
        try receiver.start(
            "rm -f hold; mkfifo hold; NC -l -p 5000 <>hold | sha1sum >sum; mv sum sum.all",
            "receiver")
        // Until somebody listens, connections are refused.
        try sender.start(
            "until (\(content)) | NC \(receiver.address) 5000; do sleep 0.1; done", "sender")
        let got = try receiver.run(
            "until [ -e sum.all ]; do sleep 0.1; done; cat sum.all; rm sum.all", seconds: 1200)
        #expect(got.prefix(40) == sum.prefix(40) && got.count > 40)
        let milliseconds = (Clock.monotonic() - begin) / 1_000_000
        print("\(way.rawValue) \(Repetition.megabytes) MiB checked in \(milliseconds) ms")
    }
}

/// Somebody's guest whose shell takes commands.
private protocol GuestShell {
    func send(_ command: String) throws
    /// - Returns: what it prints, line ends as spaces.
    func run(_ command: String, seconds: Double) throws -> String
    func powerOff() throws
}

private struct OwnGuest: GuestShell {
    let guest: Guest

    func send(_ command: String) { guest.send(command) }
    func run(_ command: String, seconds: Double) throws -> String {
        try guest.run(command, seconds: seconds)
    }
    func powerOff() throws { #expect(try guest.powerOff() == 0) }
}

private struct QEMUGuest: GuestShell {
    let machine: QEMU

    func send(_ command: String) throws { try machine.console.type(command) }
    func run(_ command: String, seconds: Double) throws -> String {
        try machine.console.ask(command, seconds: UInt64(seconds))
            .replacingOccurrences(of: "\n", with: " ")
    }
    func powerOff() throws {
        try send("exit")
        #expect(machine.awaitEnd() == .exited(0))
    }
}

/// Two ends of a network.
private struct Ends {
    let near: Station
    let far: Station
    /// How many connections iperf3 makes at once.
    var streams = 1
    /// What runs as long as these are here.
    var programs: [RunningProgram] = []
}

/// Somebody on a network who runs commands: a guest, or a namespace of the host.
private final class Station {
    let address: String
    let shell: (any GuestShell)?
    private let prefix: [String]
    private let folder: TestFolder
    private var programs: [RunningProgram] = []

    init(_ address: String, _ shell: any GuestShell) throws {
        self.address = address
        self.shell = shell
        prefix = []
        folder = try TestFolder()
    }

    init(_ address: String, _ space: NetworkNamespace) throws {
        self.address = address
        shell = nil
        prefix = space.prefix
        folder = try TestFolder()
    }

    private func script(_ script: String) throws -> String {
        let nc = shell == nil ? "\(try Guest.path("busybox")) nc" : "nc"
        let place = shell == nil ? folder.path : "/run"
        return "cd \(place); \(script.replacingOccurrences(of: "NC ", with: nc + " "))"
    }

    /// Starts what ends by itself.
    func start(_ command: String, _ name: String) throws {
        let line = try script(command)
        if let shell { return try shell.send("(\(line)) >/run/\(name).log 2>&1 &") }
        programs.append(try RunningProgram("/usr/bin/env", prefix + ["sh", "-c", line]))
    }

    func run(_ command: String, seconds: Double = 120) throws -> String {
        if let shell { return try shell.run(script(command), seconds: seconds) }
        let result = try runTool("/usr/bin/env", prefix + ["sh", "-c", script(command)])
        guard result.code == 0 else { throw TestFailure("\(command): \(result.output)") }
        return result.output.trimmingCharacters(in: .whitespacesAndNewlines)
            .replacingOccurrences(of: "\n", with: " ")
    }
}

extension TransferTests {
    private func connect(_ way: Way) throws -> Ends {
        switch way {
        case .tap:
            let guest = try boot("tap,ifname=tap0,queues=4", "10.0.4.2", cpus: 4)
            #expect(try guest.guest.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l") == "4")
            return try Ends(near: Station("10.0.4.2", guest), far: host(), streams: 4)
        case .user:
            _ = try space.run("tunctl", "-t", "wire")
            for link in ["lo", "wire"] { _ = try space.run("ip", "link", "set", link, "up") }
            _ = try space.run("ip", "addr", "add", "192.0.2.2/24", "dev", "wire")
            _ = try space.run("ip", "route", "add", "default", "via", "192.0.2.1")
            let guest = try boot("user", "192.0.2.2")
            _ = try guest.guest.run("ip route add default via 192.0.2.1")
            // The gateway stands for the host's own loopback interface.
            return try Ends(near: Station("192.0.2.2", guest), far: Station("192.0.2.1", space))
        case .pair:
            let wire = folder["wire"]
            let far = try boot("stream,server=on,path=\(wire)", "10.0.4.1")
            let near = try boot("stream,path=\(wire)", "10.0.4.2")
            return try Ends(near: Station("10.0.4.2", near), far: Station("10.0.4.1", far))
        case .switch:
            let program = try RunningProgram.apus(
                ["switch", "--listen", folder["switch"], "--uplink", "tap,ifname=tap0"],
                prefix: space.prefix)
            let guest = try boot("stream,path=\(folder["switch"])", "10.0.4.2")
            return try Ends(near: Station("10.0.4.2", guest), far: host(), programs: [program])
        case .qemu:
            let socket = folder["net.sock"]
            let program = try RunningProgram.apus(
                ["net", "--socket-path=\(socket)", "--net", "tap,ifname=tap0,queues=4"],
                prefix: space.prefix)
            while !Means.exists(socket), program.isRunning { usleep(5_000) }
            let guest = try bootQEMU(socket, "10.0.4.2")
            return try Ends(
                near: Station("10.0.4.2", guest), far: host(), streams: 4, programs: [program])
        }
    }

    private func bootQEMU(_ socket: String, _ address: String) throws -> QEMUGuest {
        let disk = folder["qemu.ext4"]
        try GuestTool.makeDisk(disk, with: GuestTool.iperf, folder)
        // With MSI-X, QEMU 7.2's emulated CPUs crash it when vhost-user starts a network interface.
        let machine = try QEMU(
            "guest", in: folder, guest: Guest.path("."),
            devices: [
                "-smp", "4", "-drive", "file=\(disk),format=raw,if=virtio",
                "-chardev", "socket,id=c0,path=\(socket)",
                "-netdev", "vhost-user,id=n0,chardev=c0,queues=4",
                "-device", "virtio-net-pci,netdev=n0,romfile=,vectors=0,mq=on",
            ])
        try machine.awaitShell()
        let guest = QEMUGuest(machine: machine)
        try raise(address, guest)
        let queues = try guest.run("ls -d /sys/class/net/eth0/queues/rx-* | wc -l", seconds: 60)
        #expect(queues == "4")
        return guest
    }

    private func raise(_ address: String, _ guest: any GuestShell) throws {
        let commands = [
            "modprobe virtio_net", "ip link set lo up", "ip link set eth0 up",
            "ip addr add \(address)/24 dev eth0", "mkdir -p /tmp", "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && "), seconds: 120) == "up")
    }

    private func host() throws -> Station {
        _ = try space.run("ip", "link", "set", "lo", "up")
        _ = try space.run("ip", "addr", "add", "10.0.4.1/24", "dev", "tap0")
        return try Station("10.0.4.1", space)
    }

    private func boot(_ net: String, _ address: String, cpus: Int = 1) throws -> OwnGuest {
        let own = try TestFolder()
        try GuestTool.makeDisk(own["root.ext4"], with: GuestTool.iperf, own)
        let guest = try Guest(
            ["--net", net, "--cpus", "boot=\(cpus)"], in: own, prefix: space.prefix)
        try guest.awaitShell()
        try raise(address, OwnGuest(guest: guest))
        return OwnGuest(guest: guest)
    }
}
