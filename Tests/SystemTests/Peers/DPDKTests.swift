import Core
import Foundation
import TestSupport
import Testing

/// DPDK's `testpmd` (Debian's package dpdk-dev), which polls: as a driver, and as a device. It has only
/// the time that nobody else wants (SCHED_IDLE), on whichever CPU that is.
@Suite(
    .needs(.guest, .program("dpdk-testpmd")), .serialized)
struct DPDKTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    /// - Parameter devices: what follows `--vdev`, each.
    private func testpmd(_ name: String, _ devices: [String], _ mode: [String]) throws
        -> RunningProgram
    {
        try RunningProgram(
            "/usr/bin/env",
            [
                "chrt", "--idle", "0",
                "dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
                "--file-prefix=apus\(getpid())\(name)", "--lcores", Self.cores,
                "--single-file-segments",
            ] + devices.flatMap { ["--vdev", $0] } + [
                "--", "--total-num-mbufs=4096", "--stats-period", "1", "--no-lsc-interrupt",
            ] + mode)
    }

    /// Its two threads, each on any CPU.
    private static let cores: String = {
        let all = "(0-\(ProcessInfo.processInfo.processorCount - 1))"
        return "0@\(all),1@\(all)"
    }()

    private func awaitFile(_ path: String, of program: RunningProgram) throws {
        let deadline = Clock.monotonic() + 20_000_000_000
        while !Means.exists(path) {
            guard program.isRunning, Clock.monotonic() < deadline else {
                throw TestFailure("no socket \(path): \(program.errorText)")
            }
            usleep(20_000)
        }
    }

    /// The last number of that name.
    private func total(_ name: String, _ text: String) -> Int? {
        text.components(separatedBy: name).last.flatMap {
            Int($0.trimmingCharacters(in: .whitespaces).prefix { $0.isNumber })
        }
    }

    @Test(
        "a driver that polls loses no packet between two interfaces",
        .timeLimit(.minutes(15)), arguments: ["", ",packed_vq=1", ",mrg_rxbuf=0,in_order=0"])
    func driver(_ options: String) throws {
        let wire = folder["wire"]
        let interfaces = try ["server=on", "server=off"].enumerated().map { index, role in
            let socket = folder["net\(index)"]
            let program = try RunningProgram.apus(
                ["net", "--socket-path=\(socket)", "--net", "stream,path=\(wire),\(role)"])
            try awaitFile(socket, of: program)
            return program
        }
        let devices = (0..<2).map {
            "net_virtio_user\($0),path=\(folder["net\($0)"]),queues=1,queue_size=256\(options)"
        }
        // What comes at one is sent at the other, so a burst goes round and round.
        let driver = try testpmd("user", devices, ["--forward-mode=io", "--tx-first"])
        let deadline = Clock.monotonic() + 60_000_000_000
        while total("RX-packets:", driver.text) ?? 0 < 20_000, driver.isRunning,
            Clock.monotonic() < deadline
        { usleep(200_000) }
        driver.kill(SIGINT)
        _ = try driver.wait()
        let received = try #require(total("RX-total:", driver.text))
        let sent = try #require(total("TX-total:", driver.text))
        #expect(received >= 20_000)
        // Two bursts of 32 were on their way.
        #expect((0...64).contains(sent - received))
        for interface in interfaces {
            interface.kill(SIGTERM)
            #expect(try interface.wait() == 0)
            #expect(interface.errorText == "")
        }
    }

    @Test(
        "its device serves a guest, is killed, and serves the guest again",
        .timeLimit(.minutes(15)))
    func device() throws {
        let socket = folder["vhost"]
        // It answers for every address.
        let start = { () throws in
            try? FileManager.default.removeItem(atPath: socket)
            let program = try testpmd(
                "vhost", ["net_vhost0,iface=\(socket),queues=1"],
                ["--forward-mode=icmpecho", "--auto-start"])
            try awaitFile(socket, of: program)
            return program
        }
        var peer = try start()
        let guest = try Guest(["--net", "socket=\(socket)"], in: folder)
        try guest.awaitShell()
        let commands = [
            "modprobe virtio_net", "ip link set eth0 up", "ip addr add 10.0.5.1/24 dev eth0",
            "echo up",
        ]
        #expect(try guest.run(commands.joined(separator: " && ")) == "up")
        let ping = "ping -c 5 -i 0.2 -W 10 -s 1400 10.0.5.2 | grep -c 'bytes from'"
        let attempt = "for i in $(seq 20); do ping -c 1 -W 1 10.0.5.2 >/dev/null && break; done"
        #expect(try guest.run("\(attempt); \(ping)") == "5")
        for _ in 0..<2 {
            peer.kill()
            #expect(try peer.wait() == -SIGKILL)
            #expect(
                try guest.run("ping -c 1 -W 1 10.0.5.2 >/dev/null || echo silence") == "silence")
            peer = try start()
            #expect(try guest.run("\(attempt); \(ping)") == "5")
        }
        #expect(try guest.powerOff() == 0)
        #expect(peer.isRunning)
    }
}
