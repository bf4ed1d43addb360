import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-block` with QEMU's storage daemon as vhost-user back ends (Benchmarks/README.md).
@main
enum BlockBenchmark {
    private static let directory = Flag.one(
        "directory", .path, default: "/var/tmp", help: "where to put the image for direct I/O")
    private static let engine = Flag.one(
        "engine", .text("NAME"), help: "the I/O engine of apus-block")
    private static let program = ComparisonProgram(
        "block-benchmark", summary: "Compares apus-block with qemu-storage-daemon.",
        milliseconds: 300, example: "disk read 4K", more: [directory.any, engine.any])

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
        program.run(Peer.allCases.map(\.contender), unit: "requests") { values in
            cases([
                try Image(.null, directory: "/dev/shm"), try Image(.tmpfs, directory: "/dev/shm"),
                try Image(.disk, directory: values[directory]),
            ])
        } named: {
            $0.name
        } measure: { index, measured, nanoseconds, values in
            try measure(Peer.allCases[index], measured, nanoseconds, values)
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
        _ peer: Peer, _ measured: Case, _ nanoseconds: UInt64, _ values: CommandValues
    ) throws -> LoadSample {
        try withBackEnd(threadCount: measured.queueCount) { socket in
            try peer.start(
                apus: values[ComparisonProgram.apus], image: measured.image,
                engine: values[engine], socket: socket)
        } _: { socket, process in
            let session = try BlockSession(
                path: socket, queueCount: measured.queueCount, measured.shape)
            let before = process.cpuTime
            let result = try session.run(nanoseconds: nanoseconds)
            let cpuTime = process.cpuTime - before
            return LoadSample(result, size: measured.shape.size, cpuTime: cpuTime)
        }
    }
}
