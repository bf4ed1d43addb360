internal import CLinux

/// How long a thread looks at its ring before it sleeps, which spares it and the driver the way
/// through the kernel: for as long as work has taken to come lately, up to a limit, and not at all
/// where work comes more rarely than that. So an idle thread never wakes, and one that has to wait
/// for long each time does not spin.
///
///     if queue.enableNotifications() || polling.find(in: queue) { ... serve ... }
///     ... sleep ...
///     polling.endSleep()
///
/// Who looks at more than a queue does so between `begin` and `isOver`.
public struct IdlePolling {
    /// Nanoseconds.
    private let limit: UInt64
    private var current: UInt64
    private var start: UInt64 = 0

    /// What a limit usually is.
    public static let usualMicroseconds: UInt64 = 32
    /// The first span that is tried.
    private static let step: UInt64 = 4_000

    /// The limit of a thread that never sleeps.
    public static let forEver = UInt64.max

    public init(microseconds limit: UInt64) {
        self.limit = limit == Self.forEver ? limit : limit &* 1000
        current = limit == Self.forEver ? limit : 0
    }

    /// There is nothing to do.
    /// - Returns: whether to look for a while.
    public mutating func begin() -> Bool {
        if limit == 0 { return false }
        start = Clock.monotonic()
        return current > 0
    }

    /// Whether it has been looked for long enough since `begin`.
    public var isOver: Bool { Clock.monotonic() &- start >= current }

    /// Looks for work. Notifications are enabled before and, if there is none, afterwards.
    public mutating func find(in queue: Virtqueue) -> Bool {
        guard begin() else { return false }
        queue.disableNotifications()
        repeat {
            if queue.hasAvailable { return true }
            clinux_pause()
        } while !isOver
        return queue.enableNotifications()
    }

    /// To be called when the thread has slept after `find` has found nothing.
    public mutating func endSleep() {
        if limit == 0 { return }
        let idle = Clock.monotonic() &- start
        if idle > limit {
            current = 0
        } else if idle > current {
            current = min(limit, max(2 &* current, Self.step))
        }
    }
}
