import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-block` with QEMU's storage daemon as vhost-user back ends (Benchmarks/README.md).
@main
enum BlockBenchmark {
    private enum Flags {
        static let apus = Flag.one(
            "apus", .path, help: "the executable to measure (default .build/release/apus)")
        static let directory = Flag.one(
            "directory", .path, help: "where to put the image for direct I/O (default /var/tmp)")
        static let milliseconds = Flag.one(
            "milliseconds", .integer(50...60000), default: 900, help: "how long each run takes")
        static let rounds = Flag.one(
            "rounds", .integer(1...100), default: 2, help: "how often the two take turns")
        static let only = Flag.one(
            "only", .text("WORDS"),
            help: "measure only cases with all these words, for example 'disk read 4K'")
        static let engine = Flag.one("engine", .text("NAME"), help: "the I/O engine of apus-block")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "block-benchmark", summary: "Compares apus-block with qemu-storage-daemon.",
        groups: [
            .init(
                "Options",
                [
                    Flags.apus.any, Flags.directory.any, Flags.milliseconds.any, Flags.rounds.any,
                    Flags.only.any, Flags.engine.any, Flags.help.any,
                ])
        ])

    private struct Case {
        let image: Image
        let load: BlockLoad

        var name: String {
            "\(image.name) \(load.isWrite ? "write" : "read") \(load.transferSize >> 10)K "
                + "QD\(load.depth) \(load.queueCount)q"
        }
    }

    static func main() {
        do {
            let values = try schema.parse(Array(CommandLine.arguments.dropFirst()))
            if values[Flags.help] { return print(schema.help, terminator: "") }
            try run(values)
        } catch {
            FileHandle.standardError.write(Data("block-benchmark: \(error)\n".utf8))
            exit(1)
        }
    }

    private static func run(_ values: CommandValues) throws {
        let images = [
            try Image(name: "tmpfs", directory: "/dev/shm", isDirect: false),
            try Image(
                name: "disk", directory: values[Flags.directory] ?? "/var/tmp", isDirect: true),
        ]
        let words = (values[Flags.only] ?? "").split(separator: " ")
        show(Measurement.heading)
        for measured in cases(images, values) {
            let own = measured.name.split(separator: " ")
            guard words.allSatisfy({ own.contains($0) }) else { continue }
            var results: [Peer: Measurement] = [:]
            for _ in 0..<values[Flags.rounds] {
                for peer in Peer.allCases {
                    results[peer, default: Measurement()].add(try measure(peer, measured, values))
                }
            }
            guard let ours = results[.apus], let theirs = results[.storageDaemon] else { continue }
            for line in ours.rows(measured.name, size: measured.load.transferSize, against: theirs)
            {
                show(line)
            }
        }
    }

    private static func cases(_ images: [Image], _ values: CommandValues) -> [Case] {
        var cases: [Case] = []
        for image in images {
            for isWrite in [false, true] {
                for (size, depth) in [(4096, 1), (4096, 32), (4096, 64), (131_072, 32)] {
                    for queueCount in [1, 2] {
                        var load = BlockLoad()
                        load.isWrite = isWrite
                        load.transferSize = size
                        load.depth = depth
                        load.queueCount = queueCount
                        load.nanoseconds = values[Flags.milliseconds] * 1_000_000
                        cases.append(Case(image: image, load: load))
                    }
                }
            }
        }
        return cases
    }

    private static func measure(
        _ peer: Peer, _ measured: Case, _ values: CommandValues
    ) throws -> Measurement {
        let socket = "/tmp/apus-benchmark-\(getpid()).sock"
        defer { unsafe unlink(socket) }
        let process = try peer.start(
            apus: values[Flags.apus] ?? ".build/release/apus", image: measured.image,
            engine: values[Flags.engine], socket: socket)
        var times: [UInt64] = []
        let result = try measured.load.run(path: socket) { times.append(process.cpuTime) }
        if result.errors > 0 {
            throw OptionError("\(peer.name) failed \(result.errors) requests of \(measured.name)")
        }
        return Measurement(result: result, cpuTime: times[1] - times[0])
    }
}
