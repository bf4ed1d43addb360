import Core
import Foundation
import TestSupport
import Testing

/// What goes through each kind of network: `ping`, iperf3, and bytes whose checksum is compared, in both
/// directions. `APUS_MEGABYTES` says how many, and `APUS_NETWORKS` may name the kinds, with commas;
/// without, it is a few, and by a tap interface only. However long it takes, it only has to go on.
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
            let wanted = Setting.environment["APUS_NETWORKS"]?.split(separator: ",")
            guard Repetition.isLong || wanted != nil else { return [.tap] }
            return allCases.filter {
                ($0 != .qemu || QEMU.isThere) && wanted?.contains(Substring($0.rawValue)) != false
            }
        }
    }

    private let folder: TestFolder
    private let space: NetworkNamespace
    /// A piece of what is sent.
    private let piece: String

    init() throws {
        folder = try TestFolder()
        piece = folder["piece"]
        let random = ["if=/dev/urandom", "of=\(piece)", "bs=1M", "count=16", "status=none"]
        guard try runTool("dd", random).code == 0 else { throw TestFailure("no \(piece)") }
        space = try NetworkNamespace()
    }

    @Test("they carry iperf3 and whole bytes", .timeLimit(.minutes(120)), arguments: Way.chosen)
    func transfers(_ way: Way) throws {
        let pair = try connect(way)
        let ping = "ping -c 5 -i 0.2 -W 10 \(pair.echo ?? pair.far.address) | grep -c 'bytes from'"
        #expect(try pair.near.run(ping) == "5")
        for direction in ["", "-R"] { try measure(pair, direction, way) }
        try check(from: pair.near, to: pair.far, receiverListens: true, way)
        // Nobody can connect to a guest behind passt unless it has been told the port.
        try check(from: pair.far, to: pair.near, receiverListens: way != .user, way)
        try pair.near.shell?.powerOff()
    }

    /// Has iperf3 send to the far end, or from there.
    private func measure(_ pair: Ends, _ direction: String, _ way: Way) throws {
        let server = try pair.far.start("\(GuestTool.iperf) -s -1")
        let client =
            "\(GuestTool.iperf) -c \(pair.far.address) -P \(pair.streams) "
            + "-n \(Repetition.megabytes)M -f m \(direction) >iperf 2>&1"
        // Until the server listens, connections are refused.
        let job = try pair.near.start(
            "for i in $(seq 50); do \(client) && break; usleep 200000; done; "
                + "grep -E 'receiver|error' iperf | tail -n 1")
        let report = try pair.near.finish(job)
        #expect(report.contains("receiver"), "\(report)")
        print("\(way.rawValue) iperf3 \(direction): \(report)")
        _ = try pair.far.finish(server)
    }

    /// Sends bytes, and compares their checksum with that of what arrives.
    /// - Parameter receiverListens: the sender connects; otherwise the other way round.
    private func check(
        from sender: Station, to receiver: Station, receiverListens: Bool, _ way: Way
    ) throws {
        let pieces = max(Repetition.megabytes / 16, 1)
        // A guest has the piece on its disk.
        let place = sender.shell == nil ? piece : "/piece"
        let content = "for i in $(seq \(pieces)); do cat \(place); echo $i >progress; done"
        let all = "for i in $(seq \(pieces)); do cat \(piece); done | md5sum"
        let sum = try runTool("sh", ["-c", all]).output
        let begin = Clock.monotonic()
        // Programs that have the connection as their input and output: nc itself is slow.
        let listen = "NC -l -p 5000 -e sh"
        let connect = "NC \((receiverListens ? receiver : sender).address) 5000 -e sh"
        let receive = "\(receiverListens ? listen : connect) receive"
        let send = "\(receiverListens ? connect : listen) send"
        // Until somebody listens, connections are refused.
        func again(_ command: String) -> String {
            "for n in $(seq 100); do \(command) && break; sleep 0.1; done"
        }
        func arrival() throws -> Job {
            let command = receiverListens ? receive : again(receive)
            // passt of 2023 resets connections to a receiver that is slow: it takes all at once.
            let take =
                way == .user && receiver.shell == nil
                ? "cat >all; md5sum <all >sum; rm all" : "md5sum >sum"
            return try receiver.start("echo '\(take)' >receive; \(command); cat sum")
        }
        let (received, sent): (Job, Job)
        if receiverListens {
            received = try arrival()
            sent = try sender.start("echo '\(content)' >send; \(again(send))")
        } else {
            sent = try sender.start("echo '\(content)' >send; \(send)")
            received = try arrival()
        }
        let got = try receiver.finish(received)
        _ = try sender.finish(sent)
        #expect(got.prefix(32) == sum.prefix(32) && sum.count >= 32)
        let seconds = Double(Clock.monotonic() - begin) / 1e9
        let rate = Double(pieces * 16 << 20) * 8 / 1e6 / seconds
        let direction =
            sender.shell == nil ? "host to guest" : receiver.shell == nil ? "guest to host" : ""
        print(
            "\(way.rawValue) \(direction) \(pieces * 16) MiB checked in \(seconds) s, \(rate) Mbit/s, "
                + "\(got.prefix(32))")
    }
}

/// Two ends of a network.
private struct Ends {
    let near: Station
    let far: Station
    /// Whom to send echo requests to; `nil`: the far end.
    var echo: String?
    /// How many connections iperf3 makes at once.
    var streams = 1
    /// What runs as long as these are here.
    var programs: [RunningProgram] = []
}

extension TransferTests {
    fileprivate func connect(_ way: Way) throws -> Ends {
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
            // passt has no privilege to send echo requests but this.
            _ = try space.run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
            let groups = "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range"
            _ = try space.run("sh", "-c", groups)
            let guest = try boot("user", "192.0.2.2")
            _ = try guest.guest.run("ip route add default via 192.0.2.1")
            // The gateway stands for the host's own loopback interface, but not for echo requests.
            return try Ends(
                near: Station("192.0.2.2", guest), far: Station("192.0.2.1", space),
                echo: "198.51.100.1")
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
        let added = try runTool("install", ["-D", piece, folder["root"] + "/piece"])
        guard added.code == 0 else { throw TestFailure(added.output) }
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
        let added = try runTool("install", ["-D", piece, own["root"] + "/piece"])
        guard added.code == 0 else { throw TestFailure(added.output) }
        try GuestTool.makeDisk(own["root.ext4"], with: GuestTool.iperf, own)
        let guest = try Guest(
            ["--net", net, "--cpus", "boot=\(cpus)"], in: own, prefix: space.prefix)
        try guest.awaitShell()
        try raise(address, OwnGuest(guest: guest))
        return OwnGuest(guest: guest)
    }
}
