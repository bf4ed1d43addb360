internal import Core

/// When a driver is told of finished requests: at once, but where they come faster than it can be
/// woken, once for several. A wake-up costs as much as a short request, on both sides. While some
/// requests take long, nobody waits for the next one's end to be told of the last one's.
struct CallPacing {
    /// How long a driver waits at most, all being short, in nanoseconds.
    private static let interval: UInt64 = 20_000
    /// For how long all are told of at once after one that took longer than that.
    private static let caution: UInt64 = 1_000_000

    private var isOwed = false
    private var lastEnd: UInt64 = 0
    private var lastCall: UInt64 = 0
    private var cautionEnd: UInt64 = 0

    /// Requests will be taken again, after a time without any.
    mutating func begin() { lastEnd = Clock.monotonic() }

    /// A request has ended.
    /// - Parameter isWanted: the driver wants to be told.
    /// - Returns: whether to tell it now.
    mutating func end(_ isWanted: Bool) -> Bool {
        let now = Clock.monotonic()
        if now &- lastEnd > Self.interval { cautionEnd = now &+ Self.caution }
        lastEnd = now
        isOwed = isOwed || isWanted
        guard now < cautionEnd || now &- lastCall > Self.interval else { return false }
        lastCall = now
        return takeOwed()
    }

    /// Nothing more is to be done.
    /// - Returns: whether there is something to tell.
    mutating func takeOwed() -> Bool {
        defer { isOwed = false }
        return isOwed
    }
}
