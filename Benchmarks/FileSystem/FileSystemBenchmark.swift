import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-fs` with QEMU's C virtiofsd as vhost-user back ends (Benchmarks/README.md).
@main
enum FileSystemBenchmark {
    private static let directory = Flag.one(
        "directory", .path, default: "/dev/shm", help: "where to put the folder to share")
    private static let program = ComparisonProgram(
        "fs-benchmark", summary: "Compares apus-fs with QEMU's virtiofsd.", milliseconds: 300,
        example: "read 4K", more: [directory.any])

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
            [4096, 1 << 20].flatMap { size in
                [1, 4, 32].map { Case(operation: operation, size: size, depth: $0) }
            }
        }
        + [FSOperation.stat, .fstat, .create, .unlink, .readdir].flatMap { operation in
            [1, 16].map { Case(operation: operation, depth: $0) }
        }

    static func main() {
        var folder: BenchmarkFolder?
        program.run(FSPeer.allCases.map(\.contender), unit: "operations") { values in
            folder = try BenchmarkFolder(parent: values[directory])
            return cases
        } named: {
            $0.name
        } measure: { index, measured, nanoseconds, values in
            guard let folder else { return nil }
            return try measure(
                FSPeer.allCases[index], measured, folder, nanoseconds,
                apus: values[ComparisonProgram.apus])
        }
    }

    private static func measure(
        _ peer: FSPeer, _ measured: Case, _ folder: BenchmarkFolder, _ nanoseconds: UInt64,
        apus: String
    ) throws -> LoadSample? {
        if measured.depth < peer.queueCount { return nil }
        let isUnlink = measured.operation == .unlink
        // More than anyone makes or removes in the time.
        let files = Int(nanoseconds / 5_000) / measured.depth
        try folder.prepareWork(places: measured.depth, files: isUnlink ? files : 0)
        return try withBackEnd(threadCount: peer.queueCount) { socket in
            try peer.start(apus: apus, folder: folder.path, socket: socket)
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
