import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-block` with QEMU's storage daemon as vhost-user back ends (Benchmarks/README.md).
@main
enum BlockBenchmark {
    private enum Flags {
        static let apus = Flag.one(
            "apus", .path, default: ".build/release/apus", help: "the executable to measure")
        static let directory = Flag.one(
            "directory", .path, default: "/var/tmp",
            help: "where to put the image for direct I/O")
        static let milliseconds = Flag.one(
            "milliseconds", .integer(50...60000), default: 300, help: "how long each run takes")
        static let rounds = Flag.one(
            "rounds", .integer(1...100), default: 3, help: "how often the two take turns")
        static let only = Flag.one(
            "only", .text("WORDS"), default: "",
            help: "measure only loads with all these words, for example 'disk read 4K'")
        static let engine = Flag.one("engine", .text("NAME"), help: "the I/O engine of apus-block")
        static let json = Flag.present("json", help: "print JSON instead of a table")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "block-benchmark", summary: "Compares apus-block with qemu-storage-daemon.",
        groups: [
            .init(
                "Options",
                [
                    Flags.apus.any, Flags.directory.any, Flags.milliseconds.any, Flags.rounds.any,
                    Flags.only.any, Flags.engine.any, Flags.json.any, Flags.help.any,
                ])
        ])

    private struct Case {
        let image: Image
        let shape: BlockLoad.Shape
        let queueCount: Int

        var name: String {
            "\(image.name) \(shape.isWrite ? "write" : "read") \(shape.size >> 10)K "
                + "QD\(shape.depth) \(queueCount)q"
        }
    }

    static func main() {
        runBenchmark(schema, isHelp: Flags.help) { values in
            let images = [
                try Image(.null, directory: "/dev/shm"), try Image(.tmpfs, directory: "/dev/shm"),
                try Image(.disk, directory: values[Flags.directory]),
            ]
            var comparison = Comparison(
                Peer.allCases.map(\.contender), unit: "requests",
                rounds: Int(values[Flags.rounds]), isJSON: values[Flags.json])
            let words = values[Flags.only].split(separator: " ")
            for measured in cases(images) {
                let own = measured.name.split(separator: " ")
                guard words.allSatisfy({ own.contains($0) }) else { continue }
                try comparison.measure(measured.name) { index in
                    try measure(Peer.allCases[index], measured, values)
                }
            }
            try comparison.finish()
        }
    }

    private static func cases(_ images: [Image]) -> [Case] {
        var cases: [Case] = []
        for image in images {
            for isWrite in [false, true] {
                for (size, depth) in [(4096, 1), (4096, 32), (4096, 64), (131_072, 32)] {
                    for queueCount in [1, 2] {
                        let shape = BlockLoad.Shape(depth: depth, size: size, isWrite: isWrite)
                        cases.append(Case(image: image, shape: shape, queueCount: queueCount))
                    }
                }
            }
        }
        return cases
    }

    private static func measure(
        _ peer: Peer, _ measured: Case, _ values: CommandValues
    ) throws -> LoadSample {
        try withBackEnd(threadCount: measured.queueCount) { socket in
            try peer.start(
                apus: values[Flags.apus], image: measured.image, engine: values[Flags.engine],
                socket: socket)
        } _: { socket, process in
            let session = try BlockSession(
                path: socket, queueCount: measured.queueCount, measured.shape)
            let before = process.cpuTime
            let result = try session.run(nanoseconds: values[Flags.milliseconds] * 1_000_000)
            let cpuTime = process.cpuTime - before
            return LoadSample(result, size: measured.shape.size, cpuTime: cpuTime)
        }
    }
}
