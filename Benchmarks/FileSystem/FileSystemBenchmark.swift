import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-fs` with QEMU's C virtiofsd as vhost-user back ends (Benchmarks/README.md).
@main
enum FileSystemBenchmark {
    private enum Flags {
        static let apus = Flag.one(
            "apus", .path, default: ".build/release/apus", help: "the executable to measure")
        static let directory = Flag.one(
            "directory", .path, default: "/dev/shm", help: "where to put the folder to share")
        static let milliseconds = Flag.one(
            "milliseconds", .integer(50...60000), default: 300, help: "how long each run takes")
        static let rounds = Flag.one(
            "rounds", .integer(1...100), default: 3, help: "how often the programs take turns")
        static let only = Flag.one(
            "only", .text("WORDS"), default: "",
            help: "measure only loads with all these words, for example 'read 4K'")
        static let json = Flag.present("json", help: "print JSON instead of a table")
        static let help = Flag.present("help", help: "show this text")
    }

    private static let schema = CommandSchema(
        "fs-benchmark", summary: "Compares apus-fs with QEMU's virtiofsd.",
        groups: [
            .init(
                "Options",
                [
                    Flags.apus.any, Flags.directory.any, Flags.milliseconds.any, Flags.rounds.any,
                    Flags.only.any, Flags.json.any, Flags.help.any,
                ])
        ])

    private struct Case {
        let operation: FSOperation
        var size = 0
        let depth: Int

        var name: String {
            let amount = size == 0 ? "" : size < 1 << 20 ? " \(size >> 10)K" : " \(size >> 20)M"
            return "\(operation.rawValue)\(amount) QD\(depth)"
        }
    }

    private static let cases: [Case] =
        [FSOperation.read, .write].flatMap { operation in
            [(4096, 1), (4096, 32), (1 << 20, 1), (1 << 20, 4)].map {
                Case(operation: operation, size: $0, depth: $1)
            }
        }
        + [FSOperation.stat, .fstat, .create, .unlink, .readdir].flatMap { operation in
            [1, 16].map { Case(operation: operation, depth: $0) }
        }

    static func main() {
        runBenchmark(schema, isHelp: Flags.help) { values in
            let folder = try BenchmarkFolder(parent: values[Flags.directory])
            var comparison = Comparison(
                FSPeer.allCases.map(\.contender), unit: "operations",
                rounds: Int(values[Flags.rounds]), isJSON: values[Flags.json])
            let words = values[Flags.only].split(separator: " ")
            for measured in cases {
                let own = measured.name.split(separator: " ")
                guard words.allSatisfy({ own.contains($0) }) else { continue }
                try comparison.measure(measured.name) { index in
                    try measure(FSPeer.allCases[index], measured, folder, values)
                }
            }
            try comparison.finish()
        }
    }

    private static func measure(
        _ peer: FSPeer, _ measured: Case, _ folder: BenchmarkFolder, _ values: CommandValues
    ) throws -> LoadSample? {
        if measured.depth < peer.queueCount { return nil }
        let nanoseconds = values[Flags.milliseconds] * 1_000_000
        let isUnlink = measured.operation == .unlink
        // More than anyone makes or removes in the time.
        let files = Int(nanoseconds / 5_000) / measured.depth
        try folder.prepareWork(places: measured.depth, files: isUnlink ? files : 0)
        return try withBackEnd(threadCount: peer.queueCount) { socket in
            try peer.start(apus: values[Flags.apus], folder: folder.path, socket: socket)
        } _: { socket, process in
            let session = try FSSession(
                path: socket, queueCount: peer.queueCount, depth: measured.depth / peer.queueCount,
                dataSize: max(measured.size, BenchmarkFolder.listingSize))
            let node = try session.lookUp([measured.operation.target])
            let handle = measured.operation.needsOpenFile ? try session.open(node) : 0
            let loads = session.lanes.indices.map {
                FSLoad(
                    measured.operation, size: measured.size, session, lane: $0, node: node,
                    handle: handle, fileLimit: isUnlink ? files : .max)
            }
            let before = process.cpuTime
            let result = try runLoads(loads, on: session.lanes, nanoseconds: nanoseconds)
            return LoadSample(result, size: measured.size, cpuTime: process.cpuTime - before)
        }
    }
}

extension FSOperation {
    /// Whether it is done to an open file.
    var needsOpenFile: Bool { self == .read || self == .write || self == .fstat }

    /// What it is done to.
    fileprivate var target: String {
        switch self {
        case .read, .write, .fstat: "data"
        case .stat, .readdir: "list"
        case .create, .unlink: "work"
        }
    }
}
