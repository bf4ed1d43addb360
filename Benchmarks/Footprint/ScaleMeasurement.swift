import Core
import Foundation
import TestSupport

/// Many machines at once, twice as many in every step: how long until the new ones have a shell,
/// and what all take of memory.
struct ScaleMeasurement {
    let setup: Setup
    let most: Int

    static let section = "scale"

    func run(_ report: inout Report) throws {
        // QEMU's disks are its own here: who runs many machines compares these two.
        for monitor in setup.monitors where monitor != .qemuVhostUser {
            var machines: [RunningMachine] = []
            var before = 0.0
            var count = 1
            while count <= most {
                let start = Clock.monotonic()
                let old = machines.count
                for number in old..<count {
                    machines.append(try setup.startLinux(monitor, number: number, settle: false))
                }
                try RunningMachine.wait(for: machines, seconds: 300, "prompt") {
                    $0.stages[.prompt] != nil
                }
                let taken = Double(Clock.monotonic() - start) / 1e9
                usleep(1_000_000)
                let total = try memory(machines)
                let step = "\(count) machine\(count == 1 ? "" : "s")"
                report.add(
                    Self.section, step + ": \(count - old) more to a shell", "s", monitor, taken)
                report.add(Self.section, step, "MiB PSS in all", monitor, total.all)
                report.add(
                    Self.section, step, "MiB PSS without guest, TCG", monitor, total.own)
                report.add(
                    Self.section, step, "MiB PSS w/o guest, TCG per new machine", monitor,
                    (total.own - before) / Double(count - old))
                before = total.own
                count *= 2
            }
        }
    }

    private func memory(_ machines: [RunningMachine]) throws -> (all: Double, own: Double) {
        var all = 0
        var own = 0
        for process in machines.flatMap(\.processes) {
            let memory = try ProcessMemory(of: process)
            all += memory.total().proportional
            own += memory.total(but: [.guest, .codeCaches]).proportional
        }
        return (Double(all) / 1048576, Double(own) / 1048576)
    }
}
