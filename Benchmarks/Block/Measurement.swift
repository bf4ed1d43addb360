import Foundation

/// What several runs of one program under one load add up to.
struct Measurement {
    var result = BlockLoad.Result()
    /// CPU time of the back end, in nanoseconds.
    var cpuTime: UInt64 = 0

    mutating func add(_ other: Measurement) {
        result.merge(other.result)
        result.elapsed += other.result.elapsed
        cpuTime += other.cpuTime
    }

    private var perSecond: Double {
        Double(result.operations) * 1e9 / Double(max(result.elapsed, 1))
    }

    private var cpuPerRequest: Double { Double(cpuTime) / 1000 / Double(max(result.operations, 1)) }

    static let heading = """
        | load | program | IOPS | MiB/s | p50 µs | p99 µs | CPU µs/request | IOPS ratio \
        | CPU ratio |
        |---|---|---:|---:|---:|---:|---:|---:|---:|
        """

    /// Two rows of the table; the ratios are ours to theirs.
    func rows(_ name: String, size: Int, against other: Measurement) -> [String] {
        let ratios = String(
            format: "%.2f | %.2f", perSecond / max(other.perSecond, 1),
            cpuPerRequest / max(other.cpuPerRequest, 1e-3))
        return [
            row(name, .apus, size: size, ratios: ratios),
            other.row("", .storageDaemon, size: size, ratios: " | "),
        ]
    }

    private func row(_ name: String, _ peer: Peer, size: Int, ratios: String) -> String {
        func microseconds(_ share: Double) -> String {
            String(format: "%.0f", Double(result.latencies.percentile(share)) / 1000)
        }
        let numbers = String(
            format: "%.0f | %.0f", perSecond, perSecond * Double(size) / 1_048_576)
        let cpu = String(format: "%.2f", cpuPerRequest)
        return "| \(name) | \(peer.name) | \(numbers) | \(microseconds(0.5)) | "
            + "\(microseconds(0.99)) | \(cpu) | \(ratios) |"
    }
}
