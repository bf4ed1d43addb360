internal import CLinux

/// How long a thread looks at its ring before it sleeps, which spares it and the driver the way
/// through the kernel: for as long as work has taken to come lately, up to a limit, and not at all
/// where work comes more rarely than that. So an idle thread never wakes, and one that has to wait
/// for long each time does not spin.
///
/// How long work takes to come is only seen with the time that waking up takes. On a host that is
/// a virtual machine itself that can be ten times the limit, and so long that the other side has
/// gone to sleep as well. So where sleeps are a little longer than the limit, a longer span is
/// tried for a few times now and then, and kept as long as it halves the wait.
///
///     if queue.enableNotifications() || polling.find(in: queue) { ... serve ... }
///     ... sleep ...
///     polling.endSleep()
///
/// Who looks at more than a queue does so between `begin` and `isOver`, and tells `found`.
public struct IdlePolling {
    /// All times are nanoseconds.
    private let limit: UInt64
    private var current: UInt64
    private var start: UInt64 = 0
    /// How long the last sleep was that was longer than the limit, but not beyond reach.
    private var slept: UInt64 = 0
    /// Such sleeps until a longer span is tried again.
    private var sleepsToTrial = Self.fewestSleeps
    /// Between two trials; twice as many after each that was of no use.
    private var interval = Self.fewestSleeps
    /// How often the span on trial is to find something yet; 0 without a trial.
    private var trialsLeft = 0

    /// What a limit usually is.
    public static let usualMicroseconds: UInt64 = 32
    /// The first span that is tried.
    private static let step: UInt64 = 4_000
    /// The longest span that can be kept, in limits.
    private static let reachFactor: UInt64 = 10
    /// A trial's length. The other side's way to sleep has time to change meanwhile.
    private static let trials = 16
    private static let fewestSleeps = 16
    private static let mostSleeps = 2048

    /// The limit of a thread that never sleeps.
    public static let forEver = UInt64.max

    public init(microseconds limit: UInt64) {
        self.limit = limit == Self.forEver ? limit : limit &* 1000
        current = limit == Self.forEver ? limit : 0
    }

    private var reach: UInt64 { limit == Self.forEver ? limit : limit &* Self.reachFactor }

    /// There is nothing to do.
    /// - Returns: whether to look for a while.
    public mutating func begin(now: @autoclosure () -> UInt64 = Clock.monotonic()) -> Bool {
        if limit == 0 { return false }
        start = now()
        return current > 0
    }

    /// Whether it has been looked for long enough since `begin`.
    public var isOver: Bool { Clock.monotonic() &- start >= current }

    /// Looks for work. Notifications are enabled before and, if there is none, afterwards.
    public mutating func find(in queue: Virtqueue) -> Bool {
        guard begin() else { return false }
        queue.disableNotifications()
        repeat {
            if queue.hasAvailable {
                found()
                return true
            }
            clinux_pause()
        } while !isOver
        return queue.enableNotifications()
    }

    /// Work has come while the thread was looking.
    @inline(__always)
    public mutating func found(now: @autoclosure () -> UInt64 = Clock.monotonic()) {
        if trialsLeft == 0 { return }
        trialsLeft -= 1
        if trialsLeft == 0 { endTrial(wait: now() &- start) }
    }

    /// A longer span has found something each time, at last after `wait`.
    private mutating func endTrial(wait: UInt64) {
        let isOfUse = wait < slept / 2
        current = isOfUse ? min(reach, max(4 &* wait, limit)) : 0
        interval = isOfUse ? Self.fewestSleeps : min(Self.mostSleeps, 2 &* interval)
        sleepsToTrial = isOfUse ? 1 : interval
    }

    /// To be called when the thread has slept after `find` has found nothing.
    public mutating func endSleep(now: @autoclosure () -> UInt64 = Clock.monotonic()) {
        if limit == 0 || limit == Self.forEver { return }
        let idle = now() &- start
        if trialsLeft > 0 {
            trialsLeft = 0
            interval = min(Self.mostSleeps, 2 &* interval)
            sleepsToTrial = interval
        }
        if idle > limit {
            current = 0
            if idle <= reach { tryLonger(than: idle) }
        } else if idle > current {
            current = min(limit, max(2 &* current, Self.step))
        }
    }

    private mutating func tryLonger(than idle: UInt64) {
        slept = idle
        sleepsToTrial -= 1
        guard sleepsToTrial <= 0 else { return }
        trialsLeft = Self.trials
        current = reach
    }
}
