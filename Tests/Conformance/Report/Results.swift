/// What came of all cases.
struct Results {
    private(set) var all: [(tested: Case, verdict: Verdict)] = []

    mutating func add(_ tested: Case, _ verdict: Verdict) { all.append((tested, verdict)) }

    func count(_ wanted: (Verdict) -> Bool) -> Int { all.count { wanted($0.verdict) } }

    var failureCount: Int { count(\.isFailure) }

    /// Failures, those that are wrong in the same way in one sentence.
    var sentences: [String] {
        var groups: [Group] = []
        var positions: [[String]: Int] = [:]
        for (tested, verdict) in all {
            guard case .failed(let reason) = verdict else { continue }
            let key = [tested.variant, reason]
            if positions[key] == nil {
                positions[key] = groups.count
                groups.append(Group(variant: tested.variant, reason: reason))
            }
            groups[positions[key] ?? 0].add(tested)
        }
        return groups.sorted { Self.weight($0.reason) > Self.weight($1.reason) }.map(\.sentence)
    }

    /// Cases that fail with the same words.
    private struct Group {
        let variant: String
        let reason: String
        private var messages: [String] = []
        private var steps: [Step] = []
        private var count = 0

        init(variant: String, reason: String) {
            self.variant = variant
            self.reason = reason
        }

        mutating func add(_ tested: Case) {
            count += 1
            if !messages.contains(tested.message) { messages.append(tested.message) }
            if !steps.contains(tested.step) { steps.append(tested.step) }
        }

        var sentence: String {
            let names =
                messages.count > 4
                ? messages.prefix(3).joined(separator: ", ") + " and \(messages.count - 3) others"
                : messages.joined(separator: ", ")
            let places =
                steps.count > 5
                ? "\(steps.count) steps"
                : steps.sorted().map(\.name).joined(separator: ", ")
            return "\(names), \(variant), at \(places): \(reason)"
                + (count > 1 ? " (\(count) cases)" : "")
        }
    }

    /// What is worse comes first.
    private static func weight(_ reason: String) -> Int {
        let order = ["was killed", "not served", "neither an answer", "I/O does not", "stay open"]
        for (index, text) in order.enumerated()
        where Array(reason.utf8).firstRange(of: Array(text.utf8)) != nil {
            return order.count - index
        }
        return 0
    }
}

extension Verdict {
    var isFailure: Bool { if case .failed = self { true } else { false } }

    /// The word for it in JSON.
    var name: String {
        switch self {
        case .passed: "passed"
        case .failed: "failed"
        case .notOffered: "not offered"
        case .notRun: "not run"
        }
    }
}
