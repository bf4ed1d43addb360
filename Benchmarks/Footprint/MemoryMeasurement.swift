import Core
import Foundation
import TestSupport

/// What a machine's processes take of memory while its guest's shell waits for a command.
struct MemoryMeasurement {
    let setup: Setup

    static let wholeSection = "memory, whole machine"
    static let processSection = "memory, by process and kind"
    /// What is not the monitor's own doing.
    private static let guestKinds: Set<ProcessMemory.Kind> = [.guest, .codeCaches]

    /// Kinds of memory, as they are shown.
    private static let kinds: [(ProcessMemory.Kind, String)] = [
        (.text, "executable text"), (.data, "executable data"), (.heap, "heap"),
        (.stacks, "stacks"), (.other, "other"), (.codeCaches, "TCG caches"),
        (.guest, "guest memory"),
    ]

    func run(_ report: inout Report) throws {
        for monitor in setup.monitors {
            let machine = try setup.startLinux(monitor)
            try machine.wait(for: .prompt)
            // What the start has left behind is done.
            usleep(2_000_000)
            try measure(machine, &report)
        }
    }

    private func measure(_ machine: RunningMachine, _ report: inout Report) throws {
        var whole = ProcessMemory.Sizes()
        var wholeKinds: [ProcessMemory.Kind: ProcessMemory.Sizes] = [:]
        var backends = 0
        for process in machine.processes {
            let memory = try ProcessMemory(of: process)
            let own = memory.total(but: Self.guestKinds)
            whole = whole + own
            for (kind, _) in Self.kinds {
                wholeKinds[kind, default: .init()] =
                    wholeKinds[kind, default: .init()] + memory[kind]
            }
            var name = "monitor"
            switch RunningMachine.name(of: process) {
            case "apus-launcher": name = "launcher"
            case "apus-block", "apus block":
                backends += 1
                name = "backend \(backends)"
            default: break
            }
            add(own, name, Self.processSection, machine.monitor, &report)
            for (kind, title) in Self.kinds {
                let value = Double(memory[kind].proportional) / 1048576
                report.add(
                    Self.processSection, "\(name): \(title)", "MiB PSS", machine.monitor, value)
            }
        }
        add(
            whole, "outside guest memory and TCG caches", Self.wholeSection, machine.monitor,
            &report)
        for (kind, title) in Self.kinds {
            let value = Double(wholeKinds[kind]?.proportional ?? 0) / 1048576
            report.add(Self.wholeSection, title, "MiB PSS", machine.monitor, value)
        }
    }

    private func add(
        _ sizes: ProcessMemory.Sizes, _ name: String, _ section: String,
        _ monitor: Monitor, _ report: inout Report
    ) {
        let values = [
            ("MiB RSS", sizes.resident), ("MiB PSS", sizes.proportional),
            ("MiB private", sizes.privateAll), ("MiB private dirty", sizes.privateDirty),
        ]
        for (unit, value) in values {
            report.add(section, name, unit, monitor, Double(value) / 1048576)
        }
    }
}
