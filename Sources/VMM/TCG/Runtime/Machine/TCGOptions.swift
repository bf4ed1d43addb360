/// What can be chosen about Apus's own CPU.
public struct TCGOptions: Sendable, Equatable {
    /// Where guest time comes from.
    public enum ClockSource: String, Sendable, CaseIterable {
        /// The host's monotonic clock.
        case host
        /// One nanosecond per retired instruction: two runs with the same inputs are the same.
        /// A halted CPU skips to its next timer.
        case counted
    }

    /// How guest code is executed.
    public enum Tier: String, Sendable, CaseIterable {
        /// Decoded, and interpreted.
        case interpreter
        /// What runs often becomes host code.
        case translator
        /// Every block with translated code in both, to find where they differ. One CPU only.
        case both
    }

    /// Which processor guests see.
    public var model: CPUModel.Name
    public var clock: ClockSource
    public var tier: Tier
    /// Say at the machine's end what its CPUs have done (Statistics/).
    public var showsStatistics: Bool
    /// Tell perf what translated code is (Records/PerfMap.swift).
    public var hasPerfMap: Bool
    /// A file for what is translated (Records/CodeListing.swift).
    public var listingPath: String?
    /// The most bytes that decoded and translated code of all CPUs may take; `nil` for three eighths
    /// of the guest's memory, at least 96 and at most 768 MiB for each CPU.
    public var codeCacheSize: UInt64?
    /// How many CPUs the machine will have: CPUID's topology leaves say so.
    public var cpuCount: Int

    /// The guest's time of day at start, in nanoseconds since 1970; `nil` is the host's, or 2026
    /// with a counted clock.
    public var startTime: UInt64?

    public init(
        clock: ClockSource = .host, cpuCount: Int = 1, startTime: UInt64? = nil,
        tier: Tier = .translator, model: CPUModel.Name = .level2, showsStatistics: Bool = false,
        hasPerfMap: Bool = false, listingPath: String? = nil, codeCacheSize: UInt64? = nil
    ) {
        self.codeCacheSize = codeCacheSize
        self.listingPath = listingPath
        self.hasPerfMap = hasPerfMap
        self.showsStatistics = showsStatistics
        self.model = model
        self.clock = clock
        self.tier = tier
        self.cpuCount = cpuCount
        self.startTime = startTime ?? (clock == .counted ? 1_767_225_600_000_000_000 : nil)
    }

    /// Which sizes there are: below them, what a CPU runs in a turn may not fit; above, jumps do not
    /// reach.
    public static func codeCacheSizes(_ cpuCount: Int) -> ClosedRange<UInt64> {
        let count = UInt64(max(1, cpuCount))
        return count * 6 << 20...count * 768 << 20
    }
}
