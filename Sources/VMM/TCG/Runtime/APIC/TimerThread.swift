/// Rings the bells of running CPUs whose timer is due, on the host's clock.
final class TimerThread: Sendable {
    let start: UInt64

    init(start: UInt64) { self.start = start }
}
