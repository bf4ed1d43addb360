internal import CLinux
internal import Glibc

/// Readings of the host's clocks, in nanoseconds.
public enum Clock {
    /// Time since some fixed point; never goes back (CLOCK_MONOTONIC).
    public static func monotonic() -> UInt64 { read(CLOCK_MONOTONIC) }

    /// Time since 1970 (CLOCK_REALTIME).
    public static func realtime() -> UInt64 { read(CLOCK_REALTIME) }

    /// How long to wait for a time of the monotonic clock: not less.
    package static func milliseconds(until time: UInt64) -> Int32 {
        let now = monotonic()
        return now >= time ? 0 : Int32(clamping: (time - now) / 1_000_000 + 1)
    }

    /// Lets the calling thread rest.
    package static func sleep(milliseconds: UInt32) { usleep(milliseconds &* 1000) }

    static func read(_ clock: clockid_t) -> UInt64 {
        var time = timespec()
        // SAFETY: `time` lives for the call.
        unsafe clock_gettime(clock, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
