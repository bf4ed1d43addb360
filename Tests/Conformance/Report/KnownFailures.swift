/// A list of failures that are expected: a line for each, `MESSAGES VARIANTS STEPS`, with commas
/// between several of a kind and `*` for any. A `?` before it says that they may fail or pass. `#`
/// begins a comment.
struct KnownFailures {
    struct Pattern {
        /// Whether it may also pass.
        let isUncertain: Bool
        private let words: [[Substring]]

        /// - Returns: `nil` if the line does not have three words.
        init?(_ line: String) {
            let all = line.split(separator: " ")
            isUncertain = all.first == "?"
            words = all.dropFirst(isUncertain ? 1 : 0).map { $0.split(separator: ",") }
            guard words.count == 3 else { return nil }
        }

        func covers(_ tested: Case) -> Bool {
            zip(words, [tested.message, tested.variant, tested.step.name]).allSatisfy {
                $0 == ["*"] || $0.contains(Substring($1))
            }
        }
    }

    private let patterns: [Pattern]

    init(_ text: String) throws(Failure) {
        var patterns: [Pattern] = []
        for line in text.split(separator: "\n") {
            let content = line.prefix { $0 != "#" }
            guard content.contains(where: { $0 != " " }) else { continue }
            guard let pattern = Pattern(String(content)) else {
                throw Failure("'\(line)' is not MESSAGES VARIANTS STEPS")
            }
            patterns.append(pattern)
        }
        self.patterns = patterns
    }

    /// What is not as the list says, as sentences.
    func differences(_ results: Results) -> [String] {
        var differences: [String] = []
        for (tested, verdict) in results.all {
            let covering = patterns.filter { $0.covers(tested) }
            if covering.contains(where: \.isUncertain) { continue }
            let isKnown = !covering.isEmpty
            switch verdict {
            case .failed(let reason) where !isKnown:
                differences.append("\(tested.name): not known to fail: \(reason)")
            case .passed where isKnown, .notOffered where isKnown:
                differences.append("\(tested.name): known to fail, but passes")
            default: break
            }
        }
        return differences
    }
}
