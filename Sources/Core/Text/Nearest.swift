/// Finds what somebody may have meant by a word that is not known.
package enum Nearest {
    /// The known word with the smallest distance to `word`, if it is near enough to be a likely
    /// misspelling.
    package static func match(_ word: String, among known: [String]) -> String? {
        let length = word.utf8.count
        guard length <= 64 else { return nil }
        var best: (word: String, distance: Int)?
        for candidate in known {
            let distance = editDistance(word, candidate)
            if distance < best?.distance ?? Int.max { best = (candidate, distance) }
        }
        guard let best, best.distance <= max(1, length / 3) else { return nil }
        return best.word
    }

    /// For an error message: `; did you mean 'x'?`, or the list of what is known.
    package static func hint(_ word: String, among known: [String]) -> String {
        if let match = match(word, among: known) { return "; did you mean '\(match)'?" }
        return known.isEmpty ? "" : "; known are \(known.joined(separator: ", "))"
    }

    /// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a` (the
    /// optimal string alignment distance).
    static func editDistance(_ a: String, _ b: String) -> Int {
        let a = Array(a.utf8)
        let b = Array(b.utf8)
        var beforeLast = [Int](repeating: 0, count: b.count + 1)
        var last = Array(0...b.count)
        for i in 0..<a.count {
            var row = [i + 1] + [Int](repeating: 0, count: b.count)
            for j in 0..<b.count {
                let replaced = last[j] + (a[i] == b[j] ? 0 : 1)
                row[j + 1] = min(replaced, last[j + 1] + 1, row[j] + 1)
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
                    row[j + 1] = min(row[j + 1], beforeLast[j - 1] + 1)
                }
            }
            beforeLast = last
            last = row
        }
        return last[b.count]
    }
}
