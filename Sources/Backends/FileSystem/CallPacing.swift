internal import Core

/// When a driver is told of finished requests. A wake-up costs as much as a short request, on both
/// sides, so it is told of several at once, but while there is still enough to do here until it has
/// sent more. While some requests take long, nobody waits for the next one's end to be told of the
/// last one's.
struct CallPacing {
    /// How long a driver waits at most, all being short, in nanoseconds.
    private static let interval: UInt64 = 50_000
    /// How many times as many requests must wait as have ended, if the driver is not to be told.
    private static let reserve = 3
    /// For how long all are told of at once after one that took longer than that.
    private static let caution: UInt64 = 1_000_000

    /// Requests that have ended since the driver asked to be told of one; 0: it did not.
    private var owed = 0
    private var owedSince: UInt64 = 0
    private var lastEnd: UInt64 = 0
    private var cautionEnd: UInt64 = 0

    /// Requests will be taken again, after a time without any.
    mutating func begin(at now: UInt64 = Clock.monotonic()) { lastEnd = now }

    /// A request has ended.
    /// - Parameters:
    ///   - isWanted: the driver wants to be told.
    ///   - now: the time.
    ///   - hasWaiting: whether at least so many requests wait.
    /// - Returns: whether to tell it now.
    mutating func end(
        _ isWanted: Bool, at now: UInt64 = Clock.monotonic(), hasWaiting: (Int) -> Bool
    ) -> Bool {
        if now &- lastEnd > Self.interval { cautionEnd = now &+ Self.caution }
        lastEnd = now
        guard isWanted || owed > 0 else { return false }
        if owed == 0 { owedSince = now }
        owed += 1
        let isDue = now < cautionEnd || now &- owedSince > Self.interval
        return isDue || !hasWaiting(owed * Self.reserve) ? takeOwed() : false
    }

    /// Nothing more is to be done, or something that may take long.
    /// - Returns: whether there is something to tell.
    mutating func takeOwed() -> Bool {
        defer { owed = 0 }
        return owed > 0
    }
}
