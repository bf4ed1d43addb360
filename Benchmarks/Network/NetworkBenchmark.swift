import BenchmarkSupport
import Core
import Foundation

/// Compares `apus-net` with DPDK's vhost driver and with QEMU's tap (Benchmarks/README.md).
@main
enum NetworkBenchmark {
    private static let program = ComparisonProgram(
        "net-benchmark", summary: "Compares apus-net with DPDK's testpmd and QEMU.",
        milliseconds: 500, example: "tap 1500")

    private static let cases: [(path: NetworkPath, size: Int)] = [
        (.sink, 64), (.sink, 1500), (.forward, 64), (.forward, 1500), (.tap, 64), (.tap, 1500),
        (.tap, 65000),
    ]

    static func main() {
        program.run(
            NetworkPeer.allCases.map(\.contender), unit: "frames", volume: .gigabits
        ) { _ in
            cases
        } named: { path, size in
            "\(path.rawValue) \(size) B"
        } measure: { index, measured, nanoseconds, values in
            let peer = NetworkPeer.allCases[index]
            guard peer.has(measured.path) else { return nil }
            return try measure(
                peer, measured.path, measured.size, nanoseconds,
                apus: values[ComparisonProgram.apus])
        }
    }

    private static func measure(
        _ peer: NetworkPeer, _ path: NetworkPath, _ size: Int, _ nanoseconds: UInt64, apus: String
    ) throws -> LoadSample {
        try withBackEnd(threadCount: 1) { socket in
            try peer.start(
                path, apus: apus, socket: socket,
                cpu: ProcessInfo.processInfo.processorCount - 1)
        } _: { socket, processes in
            defer { NetworkPeer.clean(socket: socket) }
            let ports = try peer.connect(path, socket: socket)
            if peer == .qemu { try NetworkPeer.raiseInterface(processes[0]) }
            let cpuTime = { processes.reduce(0) { $0 + $1.cpuTime } }
            var before: UInt64 = 0
            let result = try FrameLoad(size: size).run(
                from: ports[0], to: path == .forward ? ports[1] : nil,
                nanoseconds: nanoseconds
            ) { before = cpuTime() }
            return LoadSample(result, size: size, cpuTime: cpuTime() - before)
        }
    }
}
