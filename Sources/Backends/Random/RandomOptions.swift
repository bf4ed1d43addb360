package import Core

/// Where random bytes come from, and how many there are.
package struct RandomOptions: Equatable, Sendable {
    /// A file to read; `nil`: the kernel's generator, without a file.
    package var path: String?
    /// Most bytes in a period; `nil`: no limit.
    package var bytesPerPeriod: UInt64?
    package var periodMilliseconds: UInt32 = 1000

    package init() {}

    private enum Keys {
        static let path = OptionKey<String?>(
            "source", .path, help: "a file or device to read, instead of the host's getrandom")
        static let bytes = OptionKey<UInt64?>(
            "max-bytes", .integer(1...UInt64(Int64.max)),
            help: "most bytes that the guest gets in a period; no limit by default")
        static let period = OptionKey(
            "period", .integer(1...3_600_000), default: 1000, help: "the period in milliseconds")
    }

    package static let schema = OptionSchema(
        "rng", leadingKey: "source", mayBeEmpty: true,
        keys: [Keys.path.any, Keys.bytes.any, Keys.period.any])

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        path = values[Keys.path]
        bytesPerPeriod = values[Keys.bytes]
        periodMilliseconds = UInt32(clamping: values[Keys.period])
        if bytesPerPeriod == nil, values.isGiven(Keys.period) {
            throw OptionError("period needs max-bytes")
        }
    }
}
