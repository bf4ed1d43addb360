/// What one run of one program under one load gave.
package struct LoadSample: Sendable, Encodable {
    /// Operations a second.
    package var rate = 0.0
    /// Bytes a second.
    package var throughput = 0.0
    /// Microseconds; 0 where that is not measured.
    package var p50 = 0.0
    package var p99 = 0.0
    /// Microseconds of the program's processes for each operation.
    package var cpu = 0.0

    /// - Parameters:
    ///   - size: bytes that an operation carries.
    ///   - cpuTime: nanoseconds that the program used meanwhile.
    package init(_ result: LoadResult, size: Int, cpuTime: UInt64) {
        let operations = Double(max(result.operations, 1))
        rate = Double(result.operations) * 1e9 / Double(max(result.elapsed, 1))
        throughput = rate * Double(size)
        p50 = Double(result.latencies.percentile(0.5)) / 1000
        p99 = Double(result.latencies.percentile(0.99)) / 1000
        cpu = Double(cpuTime) / 1000 / operations
    }

    /// Of each figure the middle one of several runs; `nil` of none.
    package init?(middleOf runs: [LoadSample]) {
        guard var middle = runs.first else { return nil }
        for figure in [\LoadSample.rate, \.throughput, \.p50, \.p99, \.cpu] {
            let sorted = runs.map { $0[keyPath: figure] }.sorted()
            let half = sorted.count / 2
            middle[keyPath: figure] =
                sorted.count % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
        }
        self = middle
    }
}
