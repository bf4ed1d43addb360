/// A steady rate that allows for bursts. It is a matter of arithmetic: nothing runs, and nobody wakes
/// up, while nothing is asked.
struct RateLimit {
    private static let second: UInt64 = 1_000_000_000

    private let perSecond: UInt64
    /// How far ahead of the rate one may be, in nanoseconds.
    private let burst: UInt64
    /// When what has been used would have been used at the steady rate.
    private var due: UInt64 = 0
    /// What `due` lacks, in parts of a nanosecond: numerator over `perSecond`.
    private var remainder: UInt64 = 0

    /// - Parameters:
    ///   - perSecond: not zero.
    ///   - milliseconds: the burst; so much of the rate may be used at once.
    init(perSecond: UInt64, burst milliseconds: UInt64) {
        self.perSecond = perSecond
        burst = milliseconds * 1_000_000
    }

    /// Whether something may go now, whatever its size; what is too much is made up for later.
    func allows(at now: UInt64) -> Bool { due <= now &+ burst }

    /// When something may go again, by the same clock.
    var nextTime: UInt64 { due - min(due, burst) }

    /// Uses so much.
    mutating func use(_ count: UInt64, at now: UInt64) {
        due = max(due, now)
        let (high, low) = count.multipliedFullWidth(by: Self.second)
        guard high == 0, low <= UInt64.max - remainder else { return }
        let cost = (low + remainder).quotientAndRemainder(dividingBy: perSecond)
        due = due &+ cost.quotient
        remainder = cost.remainder
    }
}
