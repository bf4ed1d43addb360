import BenchmarkSupport
import Core
import Foundation

/// Compares what machines of `apus` and of QEMU cost: to start, and in memory
/// (Benchmarks/README.md).
@main
enum FootprintBenchmark {
    /// What can be measured.
    private enum Part: String, CaseIterable {
        case start, memory, scale

        var sections: [String] {
            switch self {
            case .start: [StartMeasurement.tinySection, StartMeasurement.linuxSection]
            case .memory: [MemoryMeasurement.wholeSection, MemoryMeasurement.processSection]
            case .scale: [ScaleMeasurement.section]
            }
        }
    }

    private enum Flags {
        static let apus = Flag.one(
            "apus", .path, default: ".build/release/apus", help: "the executable to measure")
        static let qemu = Flag.one(
            "qemu", .path, default: "/usr/bin/qemu-system-x86_64", help: "QEMU's executable")
        static let guest = Flag.one(
            "guest", .path, help: "the folder with vmlinuz and initramfs (default .build/guest)")
        static let kernel = Flag.one("kernel", .path, help: "another kernel than vmlinuz")
        static let monitors = Flag.one(
            "monitors", .list(of: .choice(Monitor.self)), default: Monitor.allCases,
            help: "whom to measure")
        static let memory = Flag.one(
            "memory", .size, default: 128 << 20, help: "the memory of a machine with Linux")
        static let starts = Flag.one(
            "starts", .integer(1...10000), default: 50, help: "how often the tiny guest starts")
        static let boots = Flag.one(
            "boots", .integer(1...1000), default: 8, help: "how often Linux starts")
        static let machines = Flag.one(
            "machines", .integer(1...64), default: 32, help: "how many run at once in the end")
        static let cold = Flag.present(
            "cold", help: "drop the host's caches before every start")
        static let quick = Flag.present(
            "quick", help: "10 starts, 1 boot, 1 machine: under a minute")
        static let json = Flag.present("json", help: "print JSON instead of tables")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "footprint-benchmark [start] [memory] [scale]",
        summary: "Compares what machines of apus and of QEMU cost.",
        groups: [
            .init(
                "Options",
                [
                    Flags.apus.any, Flags.qemu.any, Flags.guest.any, Flags.kernel.any,
                    Flags.monitors.any, Flags.memory.any, Flags.starts.any, Flags.boots.any,
                    Flags.machines.any, Flags.cold.any, Flags.quick.any, Flags.json.any,
                    Flags.help.any,
                ])
        ])

    static func main() {
        do {
            let arguments = CommandLine.arguments.dropFirst()
            let words = arguments.prefix { !$0.hasPrefix("-") }
            let values = try schema.parse(Array(arguments.dropFirst(words.count)))
            if values[Flags.help] { return print(schema.help, terminator: "") }
            let parts = try words.map { word in
                guard let part = Part(rawValue: word) else {
                    throw OptionError("'\(word)' is not one of start, memory, scale")
                }
                return part
            }
            try run(parts.isEmpty ? Part.allCases : parts, values)
        } catch {
            FileHandle.standardError.write(Data("footprint-benchmark: \(error)\n".utf8))
            exit(1)
        }
    }

    private static func run(_ parts: [Part], _ values: CommandValues) throws {
        let environment = ProcessInfo.processInfo.environment
        let setup = try Setup(
            programs: Programs(apus: values[Flags.apus], qemu: values[Flags.qemu]),
            monitors: values[Flags.monitors],
            guest: values[Flags.guest] ?? environment["APUS_GUEST"] ?? ".build/guest",
            kernel: values[Flags.kernel], megabytes: Int(values[Flags.memory] >> 20),
            isCold: values[Flags.cold])
        let isQuick = values[Flags.quick]
        var report = Report()
        for part in parts {
            switch part {
            case .start:
                try StartMeasurement(
                    setup: setup, starts: isQuick ? 10 : Int(values[Flags.starts]),
                    boots: isQuick ? 1 : Int(values[Flags.boots])
                ).run(&report)
            case .memory: try MemoryMeasurement(setup: setup).run(&report)
            case .scale:
                try ScaleMeasurement(setup: setup, most: isQuick ? 1 : Int(values[Flags.machines]))
                    .run(&report)
            }
            if !values[Flags.json] { part.sections.forEach(report.showTable) }
        }
        if values[Flags.json] { try report.showJSON() }
    }
}
