import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-net` with DPDK's vhost driver and with QEMU's tap (Benchmarks/README.md).
@main
enum NetworkBenchmark {
    private enum Flags {
        static let apus = Flag.one(
            "apus", .path, default: ".build/release/apus", help: "the executable to measure")
        static let milliseconds = Flag.one(
            "milliseconds", .integer(50...60000), default: 500, help: "how long each run takes")
        static let rounds = Flag.one(
            "rounds", .integer(1...100), default: 3, help: "how often the programs take turns")
        static let only = Flag.one(
            "only", .text("WORDS"), default: "",
            help: "measure only loads with all these words, for example 'tap 1500'")
        static let json = Flag.present("json", help: "print JSON instead of a table")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "net-benchmark", summary: "Compares apus-net with DPDK's testpmd and QEMU.",
        groups: [
            .init(
                "Options",
                [
                    Flags.apus.any, Flags.milliseconds.any, Flags.rounds.any, Flags.only.any,
                    Flags.json.any, Flags.help.any,
                ])
        ])

    private static let cases: [(path: NetworkPath, size: Int)] = [
        (.sink, 64), (.sink, 1500), (.forward, 64), (.forward, 1500), (.tap, 64), (.tap, 1500),
        (.tap, 65000),
    ]

    static func main() {
        runBenchmark(schema, isHelp: Flags.help) { values in
            var comparison = Comparison(
                NetworkPeer.allCases.map(\.contender), unit: "frames", volume: .gigabits,
                rounds: Int(values[Flags.rounds]), isJSON: values[Flags.json])
            let words = values[Flags.only].split(separator: " ")
            for (path, size) in cases {
                let own: [Substring] = [Substring(path.rawValue), Substring(String(size))]
                guard words.allSatisfy({ own.contains($0) }) else { continue }
                try comparison.measure("\(path.rawValue) \(size) B") { index in
                    let peer = NetworkPeer.allCases[index]
                    return try peer.has(path) ? measure(peer, path, size, values) : nil
                }
            }
            try comparison.finish()
        }
    }

    private static func measure(
        _ peer: NetworkPeer, _ path: NetworkPath, _ size: Int, _ values: CommandValues
    ) throws -> LoadSample {
        try withBackEnd(threadCount: 1) { socket in
            try peer.start(
                path, apus: values[Flags.apus], socket: socket,
                cpu: ProcessInfo.processInfo.processorCount - 1)
        } _: { socket, processes in
            defer { NetworkPeer.clean(socket: socket) }
            let ports = try peer.connect(path, socket: socket)
            if peer == .qemu { try NetworkPeer.raiseInterface(processes[0]) }
            let cpuTime = { processes.reduce(0) { $0 + $1.cpuTime } }
            var before: UInt64 = 0
            let result = try FrameLoad(size: size).run(
                from: ports[0], to: path == .forward ? ports[1] : nil,
                nanoseconds: values[Flags.milliseconds] * 1_000_000
            ) { before = cpuTime() }
            return LoadSample(result, size: size, cpuTime: cpuTime() - before)
        }
    }
}
