import Core
import Foundation
import TestSupport

/// Time and CPU time from the program's start to the stages of a guest's, each monitor in turn.
struct StartMeasurement {
    let setup: Setup
    /// Of the tiny guest, and of Linux.
    let starts: Int
    let boots: Int

    static let tinySection = "start, tiny guest"
    static let linuxSection = "start, Linux"

    func run(_ report: inout Report) throws {
        let halting = try write("halts.elf", TinyKernel.printsAndHalts)
        let faulting = try write("faults.elf", TinyKernel.printsAndFaults)
        for _ in 0..<starts {
            for monitor in setup.monitors {
                try measureFirstInstruction(monitor, halting, &report)
                try measureEnd(monitor, faulting, &report)
            }
        }
        for _ in 0..<boots {
            for monitor in setup.monitors { try measureLinux(monitor, &report) }
        }
    }

    private func write(_ name: String, _ kernel: [UInt8]) throws -> String {
        let path = "\(setup.folder)/\(name)"
        try Data(kernel).write(to: URL(fileURLWithPath: path))
        return path
    }

    /// The guest stands still after its first instructions, so all CPU time is the start's.
    private func measureFirstInstruction(
        _ monitor: Monitor, _ kernel: String, _ report: inout Report
    ) throws {
        let machine = try setup.start(
            monitor, MachineDescription(kernel: kernel, disks: setup.disks()))
        try machine.wait(for: .firstCharacter)
        guard let moment = machine.stages[.firstCharacter] else { return }
        let values = [
            ("ms", moment.wall), ("ms CPU", moment.cpu), ("ms CPU, monitor", moment.monitorCPU),
        ]
        for (unit, value) in values {
            report.add(
                Self.tinySection, "first guest instruction", unit, monitor, value.milliseconds)
        }
    }

    private func measureEnd(
        _ monitor: Monitor, _ kernel: String, _ report: inout Report
    ) throws {
        let machine = try setup.start(
            monitor, MachineDescription(kernel: kernel, disks: setup.disks()))
        try machine.waitForEnd()
        guard machine.text.first == UInt8(ascii: "!"), let end = machine.end else {
            throw OptionError("\(monitor.title) did not run the tiny guest")
        }
        report.add(
            Self.tinySection, "triple fault, process ends", "ms", monitor, end.wall.milliseconds)
    }

    private func measureLinux(_ monitor: Monitor, _ report: inout Report) throws {
        let machine = try setup.startLinux(monitor, "apus.poweroff")
        try machine.waitForEnd()
        guard let end = machine.end, end.status == .exited(0),
            machine.stages[.firstUserLine] != nil
        else { throw OptionError("\(monitor.title) did not boot Linux") }
        let stages: [(RunningMachine.Stage, String)] = [
            (.firstCharacter, "first console character"), (.firstLine, "kernel's first line"),
            (.firstUserLine, "first user-space line"),
        ]
        for (stage, name) in stages {
            guard let moment = machine.stages[stage] else { continue }
            report.add(Self.linuxSection, name, "ms", monitor, moment.wall.milliseconds)
            report.add(Self.linuxSection, name, "ms CPU", monitor, moment.cpu.milliseconds)
        }
        report.add(
            Self.linuxSection, "power-off, process ends", "ms", monitor, end.wall.milliseconds)
    }
}

extension UInt64 {
    /// Of nanoseconds.
    var milliseconds: Double { Double(self) / 1e6 }
}
