import Core
import Foundation
import TestSupport
import Testing

/// DPDK's `testpmd` (Debian's package dpdk-dev): as a driver that polls.
@Suite(
    .enabled(if: Setting.hasGuest),
    .enabled(if: Means.program("dpdk-testpmd") != nil, "there is no dpdk-testpmd"), .serialized)
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
                "dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
                "--file-prefix=apus\(getpid())\(name)", "--lcores", "0@0,1@1",
                "--single-file-segments",
            ] + devices.flatMap { ["--vdev", $0] } + [
                "--", "--total-num-mbufs=4096", "--stats-period", "1", "--no-lsc-interrupt",
            ] + mode)
    }

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
        .timeLimit(.minutes(2)), arguments: ["", ",packed_vq=1", ",mrg_rxbuf=0,in_order=0"])
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
}
