/// Counts durations in classes that are at most 1/32 wide of their value.
package struct LatencyHistogram: Sendable {
    private static let subBits = 5
    private var counts = [Int](repeating: 0, count: 60 << subBits)
    private var total = 0

    package init() {}

    package mutating func add(_ nanoseconds: UInt64) {
        counts[Self.position(nanoseconds)] += 1
        total += 1
    }

    package mutating func merge(_ other: LatencyHistogram) {
        for index in counts.indices { counts[index] += other.counts[index] }
        total += other.total
    }

    /// The duration that `share` (0 to 1) of all stay below, in nanoseconds.
    package func percentile(_ share: Double) -> UInt64 {
        let wanted = Int((Double(total) * share).rounded(.up))
        var seen = 0
        for index in counts.indices {
            seen += counts[index]
            if seen >= wanted { return Self.upperEnd(index) }
        }
        return 0
    }

    /// Values below 32 have a class each, and so has every 32nd part between two powers of two.
    private static func position(_ value: UInt64) -> Int {
        if value < 1 << UInt64(subBits) { return Int(value) }
        let exponent = 63 - value.leadingZeroBitCount
        let shift = exponent - subBits
        return (shift + 1) << subBits | Int(value >> UInt64(shift)) & ((1 << subBits) - 1)
    }

    private static func upperEnd(_ position: Int) -> UInt64 {
        let group = position >> subBits
        let low = UInt64(position & ((1 << subBits) - 1))
        if group == 0 { return low }
        return (low + (1 << UInt64(subBits)) + 1) << UInt64(group - 1) - 1
    }
}
