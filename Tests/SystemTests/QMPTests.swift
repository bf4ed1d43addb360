import Core
import Foundation
import TestSupport
import Testing

@Suite("The monitor", .needs(.guest), .serialized)
struct QMPTests {
    let folder: TestFolder

    init() throws { folder = try TestFolder() }

    @Test("the guest rests, goes on, begins again and ends as clients want it")
    func lifecycle() throws {
        let guest = try Guest(
            ["--qmp", "listen=\(folder["qmp"])", "--name", "test", "--cpus", "2"], in: folder)
        try guest.awaitShell()
        let monitor = try MonitorClient(folder["qmp"])
        let other = try MonitorClient(folder["qmp"])
        #expect(try monitor.ask("query-name") == ["name": "test"])
        #expect(try monitor.status() == "running")
        try checkCPUs(monitor, of: guest)

        try checkPause(guest, monitor)
        try checkBackend(monitor, of: guest)
        let ready = guest.apus.text.components(separatedBy: "apus-guest: ready").count
        #expect(try monitor.ask("system_reset") == [:])
        let reset = try monitor.expectEvent("RESET")
        #expect(reset as? NSDictionary == ["guest": false, "reason": "host-qmp-system-reset"])
        let deadline = Date() + 120
        while guest.apus.text.components(separatedBy: "apus-guest: ready").count == ready {
            try #require(Date() < deadline && guest.apus.isRunning)
            usleep(20_000)
        }
        #expect(try monitor.status() == "running")

        // Also while it rests.
        #expect(try monitor.ask("stop") == [:])
        #expect(try monitor.ask("quit") == [:])
        for event in ["STOP", "RESUME", "RESET", "STOP"] { try other.expectEvent(event) }
        let end = try other.expectEvent("SHUTDOWN")
        #expect(end as? NSDictionary == ["guest": false, "reason": "host-qmp-quit"])
        #expect(try guest.apus.wait() == 6)
    }

    @Test("a power-off of the guest is told")
    func powerOff() throws {
        let guest = try Guest(["--qmp", folder["qmp"]], in: folder)
        let monitor = try MonitorClient(folder["qmp"])
        // Before there is a shell.
        #expect(try monitor.ask("stop") == [:])
        #expect(try monitor.ask("cont") == [:])
        try guest.awaitShell()
        #expect(try guest.powerOff() == 0)
        for event in ["STOP", "RESUME"] { try monitor.expectEvent(event) }
        let end = try monitor.expectEvent("SHUTDOWN")
        #expect(end as? NSDictionary == ["guest": true, "reason": "guest-shutdown"])
        // The file stays, and the next start replaces it.
        let next = try Guest(["--qmp", folder["qmp"]], in: folder)
        #expect(try MonitorClient(folder["qmp"]).ask("quit") == [:])
        #expect(try next.apus.wait() == 6)
    }

    @Test("a machine does not start where somebody else listens")
    func taken() throws {
        let listener = try UnixListener(path: folder["qmp"])
        let apus = try RunningProgram.apus([
            "--kernel", Guest.path("vmlinuz"), "--qmp", folder["qmp"],
        ])
        #expect(try apus.wait() == 1)
        #expect(
            apus.errorText.contains(
                "the monitor cannot listen at \(folder["qmp"]): another program uses it, or it is no"
                    + " socket"))
        withExtendedLifetime(listener) {}
    }

    /// A backend's process and its end are seen.
    private func checkBackend(_ monitor: MonitorClient, of guest: Guest) throws {
        func backend() throws -> NSDictionary? {
            let devices = try monitor.value(of: "x-query-devices") as? [NSDictionary]
            return devices?.first?["backend"] as? NSDictionary
        }
        let first = try #require(guest.backend?.id)
        let before = try backend()
        #expect(before?["process-id"] as? Int == Int(first))
        #expect(before?["connected"] as? Bool == true)
        #expect(before?["reconnects"] as? Int == 0)
        #expect(before?["last-loss"] == nil)
        kill(first, SIGKILL)
        let deadline = Date() + 20
        while try backend()?["reconnects"] as? Int == 0, Date() < deadline { usleep(20_000) }
        let after = try backend()
        #expect(after?["connected"] as? Bool == true)
        #expect(after?["reconnects"] as? Int == 1)
        #expect(after?["last-loss"] as? String == "the peer closed the connection")
        #expect(after?["process-id"] as? Int == guest.backend.map { Int($0.id) })
        #expect(guest.backend?.id != first)
    }

    /// The threads that clients are told of run the guest's CPUs.
    private func checkCPUs(_ monitor: MonitorClient, of guest: Guest) throws {
        let cpus = try #require(try monitor.value(of: "query-cpus-fast") as? [[String: Any]])
        #expect(cpus.map { $0["cpu-index"] as? Int } == [0, 1])
        for (index, cpu) in cpus.enumerated() {
            let thread = try #require(cpu["thread-id"] as? Int)
            let name = try String(
                contentsOfFile: "/proc/\(guest.apus.id)/task/\(thread)/comm", encoding: .utf8)
            #expect(name == "vcpu\(index)\n")
        }
    }

    /// A guest that counts all the time, on both CPUs, stands still between `stop` and `cont`.
    private func checkPause(_ guest: Guest, _ monitor: MonitorClient) throws {
        let count = "i=0; while :; do i=$((i + 1)); echo count $i; usleep 20000; done"
        guest.send("(while :; do :; done) & (\(count)) &")
        try guest.apus.waitFor("count 5\n")
        #expect(try monitor.ask("stop") == [:])
        #expect(try monitor.status() == "paused")
        // What was printed before is on its way for a moment.
        var text = ""
        let deadline = Date() + 20
        while text != guest.apus.text, Date() < deadline {
            text = guest.apus.text
            usleep(500_000)
        }
        let time = try cpuTime(of: guest)
        usleep(500_000)
        #expect(guest.apus.text == text)
        #expect(try cpuTime(of: guest) - time < 5)
        #expect(try monitor.ask("stop") == [:])
        #expect(try monitor.ask("cont") == [:])
        #expect(try monitor.ask("cont") == [:])
        #expect(try monitor.status() == "running")
        try guest.apus.waitFor("count ", after: text.count)
        #expect(try guest.run("kill %1 %2; echo done") == "done")
        try monitor.expectEvent("STOP")
        try monitor.expectEvent("RESUME")
    }

    /// Of all threads, in hundredths of a second.
    private func cpuTime(of guest: Guest) throws -> Int {
        let line = try String(contentsOfFile: "/proc/\(guest.apus.id)/stat", encoding: .utf8)
        let fields = try #require(line.split(separator: ")").last).split(separator: " ")
        return (Int(fields[11]) ?? 0) + (Int(fields[12]) ?? 0)
    }
}
