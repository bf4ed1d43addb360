import Foundation

/// A table of loads and of how programs do under them. The programs take turns, because other
/// machines may share the hardware; figures are the middle ones of all turns. Ratios are ours to
/// those of the fastest program that is not ours.
package struct Comparison {
    /// A program, with the options that it is measured with.
    package struct Contender: Sendable {
        package let name: String
        package let isOurs: Bool

        package init(_ name: String, isOurs: Bool) {
            self.name = name
            self.isOurs = isOurs
        }
    }

    /// A program under a load.
    private struct Row: Encodable {
        let load: String
        let program: String
        let middle: LoadSample
        let runs: [LoadSample]
        var rateRatio: Double?
        var cpuRatio: Double?
    }

    /// How much is moved.
    package enum Volume {
        case mebibytes, gigabits

        var name: String { self == .mebibytes ? "MiB" : "Gbit" }
        var bytes: Double { self == .mebibytes ? 1_048_576 : 125_000_000 }
    }

    private let contenders: [Contender]
    private let volume: Volume
    private let rounds: Int
    private let isJSON: Bool
    private var rows: [Row] = []

    /// - Parameters:
    ///   - unit: what `LoadSample.rate` counts.
    ///   - rounds: how often the programs take turns under each load.
    ///   - isJSON: print JSON at the end, and no tables.
    package init(
        _ contenders: [Contender], unit: String, volume: Volume = .mebibytes, rounds: Int,
        isJSON: Bool
    ) {
        self.volume = volume
        self.contenders = contenders
        self.rounds = rounds
        self.isJSON = isJSON
        guard !isJSON else { return }
        show(
            "| load | program | \(unit)/s | \(volume.name)/s | p50 µs | p99 µs | CPU µs | ratio "
                + "| CPU ratio |")
        show("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    }

    /// Measures all programs under a load, and shows their rows.
    /// - Parameter run: measures the program of a number; `nil` if it does not know such a load.
    package mutating func measure(
        _ load: String, _ run: (Int) throws -> LoadSample?
    ) throws {
        var runs = [[LoadSample]](repeating: [], count: contenders.count)
        for _ in 0..<rounds {
            for index in contenders.indices {
                if let sample = try run(index) { runs[index].append(sample) }
            }
        }
        let middles = runs.map { LoadSample(middleOf: $0) }
        let best = zip(contenders, middles).filter { !$0.0.isOurs }.compactMap(\.1)
            .max { $0.rate < $1.rate }
        for (index, middle) in middles.enumerated() {
            guard let middle else { continue }
            var row = Row(
                load: load, program: contenders[index].name, middle: middle, runs: runs[index])
            if contenders[index].isOurs, let best {
                row.rateRatio = middle.rate / best.rate
                row.cpuRatio = middle.cpu / best.cpu
            }
            rows.append(row)
            if !isJSON { show(line(row)) }
        }
    }

    private func line(_ row: Row) -> String {
        let middle = row.middle
        func ratio(_ value: Double?) -> String { value.map { String(format: "%.2f", $0) } ?? "" }
        func latency(_ value: Double) -> String { value > 0 ? String(format: "%.0f", value) : "-" }
        let amount = middle.throughput / volume.bytes
        let figures =
            String(format: amount < 100 ? "%.0f | %.1f | " : "%.0f | %.0f | ", middle.rate, amount)
            + "\(latency(middle.p50)) | \(latency(middle.p99)) | "
            + String(format: "%.2f", middle.cpu)
        return "| \(row.load) | \(row.program) | \(figures) | \(ratio(row.rateRatio)) | "
            + "\(ratio(row.cpuRatio)) |"
    }

    /// Ends the output.
    package func finish() throws {
        guard isJSON else { return }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        show(String(decoding: try encoder.encode(rows), as: UTF8.self))
    }
}
