internal import Core

/// How much may go in one direction, by all pairs of queues of an interface together.
final class TrafficLimit: Sendable {
    private static let burstMilliseconds: UInt64 = 20

    private struct Rates {
        var bits: RateLimit?
        var packets: RateLimit?
    }

    private let rates: Lock<Rates>

    /// - Parameters:
    ///   - bits: in a second; 0: as many as there are.
    ///   - packets: likewise.
    /// - Returns: `nil` if there is no limit.
    init?(bits: UInt64, packets: UInt64) {
        if bits == 0, packets == 0 { return nil }
        func limit(_ rate: UInt64) -> RateLimit? {
            rate > 0 ? RateLimit(perSecond: rate, burst: Self.burstMilliseconds) : nil
        }
        rates = Lock(Rates(bits: limit(bits), packets: limit(packets)))
    }

    /// When something may go; `nil` if it may now.
    func wait(at now: UInt64) -> UInt64? {
        rates.withLock { rates in
            let time = max(rates.bits?.nextTime ?? 0, rates.packets?.nextTime ?? 0)
            return time > now ? time : nil
        }
    }

    func use(bytes: UInt64, packets: UInt64, at now: UInt64) {
        rates.withLock { rates in
            rates.bits?.use(bytes &* 8, at: now)
            rates.packets?.use(packets, at: now)
        }
    }
}

/// How much may go in each direction; `nil`: all there is.
struct TrafficLimits: Sendable {
    var receive: TrafficLimit?
    var transmit: TrafficLimit?

    init() {}

    init(_ options: NetworkOptions) {
        receive = TrafficLimit(bits: options.rate.in, packets: options.packetRate.in)
        transmit = TrafficLimit(bits: options.rate.out, packets: options.packetRate.out)
    }
}
