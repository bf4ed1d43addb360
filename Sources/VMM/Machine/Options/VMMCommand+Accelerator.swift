internal import Core
internal import TCG

// Who runs the guest's code.
extension VMMCommand {
    enum Accel {
        enum Provider: String, CaseIterable {
            case kvm, tcg
            case kvmOrTCG = "kvm:tcg"
        }
        static let provider = OptionKey(
            "provider", .choice(Provider.self), default: .kvmOrTCG,
            help: "kvm: the host's hardware; tcg: Apus's own CPU; kvm:tcg: the first that works")
        static let clock = OptionKey(
            "clock", .choice(TCGOptions.ClockSource.self), default: .host,
            help: "tcg: time is the host's clock, or counted instructions (repeatable runs)")
        static let tier = OptionKey(
            "tier", .choice(TCGOptions.Tier.self), default: .translator,
            help: "tcg: interpret the guest's code, translate what runs often, or compare both")
        static let statistics = OptionKey(
            "stats", .bool, default: false,
            help: "tcg: say at the end what the CPUs have done, as QEMU's info jit does")
        static let perfMap = OptionKey(
            "perf-map", .bool, default: false,
            help: "tcg: name translated code for perf report, in /tmp/perf-PID.map")
        static let codeCache = OptionKey<UInt64?>(
            "code-cache", .size,
            help:
                "tcg: the most memory for all CPUs' code (default: 3/8 of the guest's, and 96M to 768M a CPU)"
        )
        static let dump = OptionKey<String?>(
            "dump", .path, help: "tcg: write what is translated to a file, for Tools/list-code")
        static let schema = OptionSchema(
            "accel", leadingKey: "provider",
            keys: [
                provider.any, clock.any, tier.any, statistics.any, perfMap.any, codeCache.any,
                dump.any,
            ])
    }
    static let accel = Flag.one("accel", Accel.schema, help: "Who runs the guest's code")

    static func acceleratorOptions(
        _ values: OptionValues?, _ processor: OptionValues?, _ cpuCount: Int
    ) throws(OptionError) -> AcceleratorOptions {
        let provider = values.map { $0[Accel.provider] } ?? .kvmOrTCG
        let clock = values.map { $0[Accel.clock] } ?? .host
        if provider != .tcg, values?.isGiven(Accel.clock) == true {
            throw OptionError("--accel: clock belongs to tcg alone; write tcg,clock=...")
        }
        if provider == .kvm {
            try refuse(Accel.tier, values, "KVM has none")
            try refuse(Accel.statistics, values, "KVM's CPUs count nothing here")
            try refuse(Accel.perfMap, values, "for kvm there is perf kvm")
            try refuse(Accel.codeCache, values, "KVM translates nothing")
            try refuse(Accel.dump, values, "KVM translates nothing")
            if processor != nil {
                throw OptionError(
                    "--cpu: models belong to tcg; with kvm, guests see the host's CPU")
            }
        }
        if clock == .counted && cpuCount > 1 {
            throw OptionError(
                "--accel: clock=counted repeats runs of one CPU only; give it --cpus boot=1")
        }
        let tier = values.map { $0[Accel.tier] } ?? .translator
        if tier == .both && provider != .tcg {
            throw OptionError("--accel: tier=both belongs to tcg alone; write tcg,tier=both")
        }
        if tier == .both && cpuCount > 1 {
            throw OptionError(
                "--accel: tier=both compares runs of one CPU only; give it --cpus boot=1")
        }
        let codeCache = values.flatMap { $0[Accel.codeCache] }
        if let codeCache, !TCGOptions.codeCacheSizes(cpuCount).contains(codeCache) {
            let sizes = TCGOptions.codeCacheSizes(cpuCount)
            throw OptionError(
                "--accel: code-cache is \(sizes.lowerBound >> 20)M to \(sizes.upperBound >> 20)M"
                    + " with this number of CPUs")
        }
        let model = processor.map { $0[Processor.model] } ?? .level2
        let options = TCGOptions(
            clock: clock, cpuCount: cpuCount, tier: tier, model: model,
            showsStatistics: values.map { $0[Accel.statistics] } ?? false,
            hasPerfMap: values.map { $0[Accel.perfMap] } ?? false,
            listingPath: values.flatMap { $0[Accel.dump] }, codeCacheSize: codeCache)
        return switch provider {
        case .kvm: .kvm
        case .tcg: .tcg(options)
        case .kvmOrTCG: .kvmOrTCG(options)
        }
    }

    /// KVM has no such key of `--accel`.
    private static func refuse<T>(
        _ key: OptionKey<T>, _ values: OptionValues?, _ reason: String
    ) throws(OptionError) {
        if values?.isGiven(key) == true {
            throw OptionError("--accel: \(key.name) belongs to tcg; \(reason)")
        }
    }
}
