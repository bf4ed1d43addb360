import Glibc

/// Counts a back end's descriptors.
struct LeakWatch {
    private let backend: Backend
    private var start = 0
    /// What it has in use while it serves a front end, by kind of ring.
    private var usual: [Bool: Int] = [:]
    /// After how many cases descriptors could be counted.
    private(set) var countedCases = 0

    init(_ backend: Backend) { self.backend = backend }

    /// What is known is about another process.
    var isStale: Bool { start != backend.startCount || usual.isEmpty }

    mutating func restart() {
        start = backend.startCount
        usual = [:]
    }

    mutating func learn(isPacked: Bool) { usual[isPacked] = backend.descriptorCount }

    /// How many more descriptors than usual are open, now that a fresh session has done I/O.
    mutating func growth(isPacked: Bool) -> Int? {
        guard !isStale, let before = usual[isPacked], var count = backend.descriptorCount else {
            return nil
        }
        countedCases += 1
        for _ in 0..<50 where count > before {
            usleep(1000)
            count = backend.descriptorCount ?? count
        }
        guard count > before else { return nil }
        let growth = count - before
        for kind in usual.keys { usual[kind, default: 0] += growth }
        return growth
    }
}
