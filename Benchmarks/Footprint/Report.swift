import BenchmarkSupport
import Foundation

/// How values spread.
struct Spread: Encodable {
    let p50: Double
    let p99: Double
    let min: Double
    let count: Int

    init(_ values: [Double]) {
        let sorted = values.sorted()
        func percentile(_ share: Double) -> Double {
            guard !sorted.isEmpty else { return .nan }
            return sorted[max(0, Int((Double(sorted.count) * share).rounded(.up)) - 1)]
        }
        p50 = percentile(0.5)
        p99 = percentile(0.99)
        min = sorted.first ?? .nan
        count = sorted.count
    }

    /// `p50 / p99 / min`, or the only value.
    var text: String {
        count == 1 ? Self.text(p50) : [p50, p99, min].map(Self.text).joined(separator: " / ")
    }

    private static func text(_ value: Double) -> String {
        let digits = abs(value) < 100 ? (abs(value) < 10 ? 2 : 1) : 0
        return String(format: "%.*f", digits, value)
    }
}

/// What was measured, row by row in the order in which it came up.
struct Report: Encodable {
    struct Row: Encodable {
        let section: String
        let name: String
        let unit: String
        /// By the monitor's short name.
        var values: [String: Spread]

        func line(_ columns: [Monitor]) -> String {
            var cells = [name, unit]
            let ours = values[Monitor.apus.rawValue]
            for column in columns {
                let value = values[column.rawValue]
                cells.append(value?.text ?? "-")
                guard column != .apus else { continue }
                let ratio = ours.flatMap { ours in value.map { ours.p50 / $0.p50 } }
                cells.append(
                    ratio.flatMap { $0.isFinite ? String(format: "%.2f", $0) : nil } ?? "-")
            }
            return "| \(cells.joined(separator: " | ")) |"
        }
    }

    let time = ISO8601DateFormatter().string(from: Date())
    private(set) var rows: [Row] = []
    private var samples: [String: [Double]] = [:]

    private enum CodingKeys: CodingKey { case time, rows }

    /// Takes in one value.
    mutating func add(
        _ section: String, _ name: String, _ unit: String, _ monitor: Monitor, _ value: Double
    ) {
        let key = [section, name, unit, monitor.rawValue].joined(separator: "\n")
        samples[key, default: []].append(value)
        let spread = Spread(samples[key] ?? [])
        let index = rows.firstIndex {
            $0.section == section && $0.name == name && $0.unit == unit
        }
        if let index {
            rows[index].values[monitor.rawValue] = spread
        } else {
            rows.append(
                Row(section: section, name: name, unit: unit, values: [monitor.rawValue: spread]))
        }
    }

    /// Prints a section's table; ratios are ours to theirs, of the middle values.
    func showTable(of section: String) {
        let rows = rows.filter { $0.section == section }
        let columns = Monitor.allCases.filter { column in
            rows.contains { $0.values[column.rawValue] != nil }
        }
        let titles = columns.flatMap { $0 == .apus ? [$0.title] : [$0.title, "ratio"] }
        show("\n| \(section) | unit | \(titles.joined(separator: " | ")) |")
        show("|---|---|" + String(repeating: "---:|", count: titles.count))
        // Kinds of memory that nobody has say nothing.
        for row in rows where row.values.values.contains(where: { $0.p50 >= 0.005 }) {
            show(row.line(columns))
        }
    }

    func showJSON() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
        show(String(decoding: try encoder.encode(self), as: UTF8.self))
    }
}
