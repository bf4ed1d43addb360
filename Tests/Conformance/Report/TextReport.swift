/// The table: a line for each message, a column for each family of cases.
struct TextReport {
    let results: Results

    private struct Cell {
        var passed = 0
        var failed = 0
        var notOffered = 0

        mutating func add(_ verdict: Verdict) {
            switch verdict {
            case .passed: passed += 1
            case .failed: failed += 1
            case .notOffered: notOffered += 1
            case .notRun: break
            }
        }

        /// For example `12`, or `12-3` where three more failed; `(12)` is not offered.
        var text: String {
            if failed > 0 { return "\(passed + notOffered)-\(failed)" }
            if passed > 0 { return "\(passed)" }
            return notOffered > 0 ? "(\(notOffered))" : "."
        }
    }

    private var rows: [(name: String, cells: [Family: Cell], total: Cell)] {
        var names: [String] = []
        var cells: [String: [Family: Cell]] = [:]
        var totals: [String: Cell] = [:]
        for (tested, verdict) in results.all {
            if cells[tested.message] == nil { names.append(tested.message) }
            cells[tested.message, default: [:]][tested.family, default: Cell()].add(verdict)
            totals[tested.message, default: Cell()].add(verdict)
        }
        return names.map { ($0, cells[$0] ?? [:], totals[$0] ?? Cell()) }
    }

    var lines: [String] {
        let rows = self.rows
        let families = Family.allCases
        let heading =
            ["message"] + families.map(\.rawValue) + ["passed", "failed", "not offered"]
        var table = [heading]
        for row in rows {
            table.append(
                [row.name] + families.map { row.cells[$0]?.text ?? "." }
                    + Self.counts(row.total))
        }
        var sum = Cell()
        for (_, verdict) in results.all { sum.add(verdict) }
        table.append(["all"] + families.map { _ in "" } + Self.counts(sum))
        return Self.align(table)
    }

    private static func counts(_ cell: Cell) -> [String] {
        [cell.passed, cell.failed, cell.notOffered].map { $0 == 0 ? "." : "\($0)" }
    }

    private static func align(_ table: [[String]]) -> [String] {
        let widths = (table.first ?? []).indices.map { column in
            table.map { $0[column].count }.max() ?? 0
        }
        return table.map { row in
            row.enumerated().map { column, text in
                let padding = String(repeating: " ", count: widths[column] - text.count)
                return column == 0 ? text + padding : padding + text
            }.joined(separator: "  ")
        }
    }
}
