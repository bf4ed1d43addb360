import Core
import Foundation
import Glibc
import TestSupport
import Testing

@Suite("Devices come and go", .needs(.guest), .serialized)
struct HotPlugTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// Waits until a command of the guest answers what is expected.
    private func expect(
        _ command: String, _ expected: String, in guest: Guest, seconds: Double = 30
    ) throws {
        let deadline = Date() + seconds
        var answer = ""
        while Date() < deadline {
            answer = try guest.run(command)
            if answer == expected { return }
            usleep(100_000)
        }
        throw TestFailure("\(command): \(answer), not \(expected)")
    }

    @Test("a disk is plugged in, used, unplugged and plugged in again", .timeLimit(.minutes(15)))
    func disk() throws {
        let data = try folder.file("data.img", [UInt8](repeating: 0, count: 8 << 20))
        let guest = try Guest(
            ["--qmp", folder["qmp"], "--disk", "path=\(data),id=data,plugged=off", "--cpus", "2"],
            in: folder)
        try guest.awaitShell()
        let monitor = try MonitorClient(folder["qmp"])
        let disks = { guest.apus.children.count { $0.arguments.first == "apus-block" } }
        #expect(disks() == 1)
        #expect(try guest.run("ls /sys/block") == "vda")
        for round in 1...2 {
            #expect(try monitor.ask("device_add", "{\"id\": \"data\"}") == [:])
            #expect(disks() == 2)
            try expect("ls /sys/block", "vda vdb", in: guest)
            let before = try guest.run("dd if=/dev/vdb bs=512 count=1 2>/dev/null | tr -d '\\0'")
            #expect(before == (round == 1 ? "" : "round 1"))
            #expect(
                try guest.run(
                    "echo round \(round) | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null;"
                        + " echo done") == "done")
            #expect(try monitor.ask("device_del", "{\"id\": \"data\"}") == [:])
            let event = try monitor.expectEvent("DEVICE_DELETED") as? NSDictionary
            #expect(event == ["device": "data", "path": "/machine/peripheral/data"])
            #expect(try guest.run("ls /sys/block") == "vda")
            #expect(disks() == 1)
        }
        let bytes = try readFile(data)
        #expect(bytes.starts(with: "round 2\n".utf8))
        #expect(try guest.powerOff() == 0)
    }

    @Test("devices of every kind are unplugged while they are in use", .timeLimit(.minutes(15)))
    func kinds() throws {
        let guest = try Guest(
            [
                "--qmp", folder["qmp"], "--rng", "id=rng",
                "--console", "listen=\(folder["tty"]),id=tty",
                "--net", "type=none,id=net,mac=52:54:00:12:34:56",
                "--vsock", "cid=5,path=\(folder["vsock"]),id=vsock",
                "--fs", "path=\(folder.path),tag=share,id=share",
            ], in: folder)
        try guest.awaitShell()
        try guest.loadConsoleDriver()
        #expect(
            try guest.run(
                "modprobe virtio-rng && modprobe virtio_net && modprobe virtiofs &&"
                    + " modprobe vmw_vsock_virtio_transport && mkdir /s && mount -t virtiofs share /s"
                    + " && echo loaded") == "loaded")
        guest.send("(while :; do cat /dev/hwrng >/dev/null; usleep 1000; done) 2>/dev/null &")
        guest.send("(while :; do echo x >/dev/hvc0; done) 2>/dev/null &")
        let monitor = try MonitorClient(folder["qmp"])
        // Who uses a file system takes it down first.
        #expect(try guest.run("umount /s && echo done") == "done")
        for id in ["rng", "tty", "net", "vsock", "share"] {
            #expect(try monitor.ask("device_del", "{\"id\": \"\(id)\"}") == [:])
        }
        let left = try (1...5).compactMap { _ in
            (try monitor.expectEvent("DEVICE_DELETED") as? NSDictionary)?["device"] as? String
        }
        #expect(left.sorted() == ["net", "rng", "share", "tty", "vsock"])
        let programs = guest.apus.children.compactMap { $0.arguments.first }
        #expect(programs.sorted() == ["apus-block", "apus-launcher"])
        let all = try #require(try monitor.value(of: "x-query-devices") as? [NSDictionary])
        // The root disk has no slot.
        let devices = all.filter { $0["id"] != nil }
        #expect(devices.count + 1 == all.count)
        #expect(devices.allSatisfy { $0["backend"] == nil })
        #expect(devices.map { $0["state"] as? String } == Array(repeating: "unplugged", count: 5))
        #expect(try monitor.ask("device_add", "{\"id\": \"share\"}") == [:])
        try expect("mount -t virtiofs share /s 2>/dev/null; ls /s | grep -c qmp", "1", in: guest)
        #expect(try guest.powerOff() == 0)
    }

    @Test("what cannot be is said, and a reboot takes what was asked for", .timeLimit(.minutes(15)))
    func errors() throws {
        let socket = folder["rng"]
        let guest = try Guest(
            [
                "--qmp", folder["qmp"], "--rng", "id=here",
                "--vhost-user", "type=rng,socket=\(socket),id=late,plugged=off",
            ], in: folder)
        let monitor = try MonitorClient(folder["qmp"])
        #expect(
            try monitor.failure(of: "device_add", "{\"id\": \"x\"}")
                == "there is no device 'x'; the machine was started with 'here', 'late'")
        #expect(
            try monitor.failure(of: "device_add", "{\"id\": \"here\"}")
                == "device 'here' is plugged in already, or just comes or goes")
        #expect(
            try monitor.failure(
                of: "device_add", "{\"id\": \"late\", \"driver\": \"virtio-blk-pci\"}")
                == "device 'late' was declared as vhost-user-rng-pci, not 'virtio-blk-pci'")
        #expect(
            try monitor.failure(of: "device_del", "{\"id\": \"late\"}")
                == "device 'late' is not plugged in")
        // Nobody listens yet.
        #expect(
            try monitor.failure(of: "device_add", "{\"id\": \"late\"}")
                .hasPrefix("device 'late' cannot be plugged in: the rng device at socket"))
        let server = try RunningProgram.apus(["rng", "--socket-path", socket])
        let deadline = Date() + 20
        while !FileManager.default.fileExists(atPath: socket), Date() < deadline { usleep(10_000) }
        #expect(try monitor.ask("device_add", "{\"id\": \"late\"}") == [:])
        // The guest has no driver for its ports yet, or is just about to look at them.
        #expect(try monitor.ask("device_del", "{\"id\": \"here\"}") == [:])
        #expect(
            try monitor.failure(of: "device_del", "{\"id\": \"here\"}").hasPrefix("the guest has"))
        #expect(try monitor.ask("system_reset") == [:])
        var data: NSDictionary?
        // Either may be first.
        for _ in 1...2 where data?["device"] == nil {
            data = try monitor.nextEvent(of: ["RESET", "DEVICE_DELETED"]) as? NSDictionary
        }
        #expect(data?["device"] as? String == "here")
        try guest.awaitShell()
        #expect(try guest.run("modprobe virtio-rng && ls /sys/bus/virtio/devices | wc -l") == "2")
        #expect(try guest.run("dd if=/dev/hwrng bs=100 count=1 2>/dev/null | wc -c") == "100")
        #expect(try guest.powerOff() == 0)
        server.kill(SIGTERM)
    }
}
