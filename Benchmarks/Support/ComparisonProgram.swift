package import Core

/// A program that compares back ends under loads: the flags that all such programs have, and the
/// table that they print.
package struct ComparisonProgram {
    package static let apus = Flag.one(
        "apus", .path, default: ".build/release/apus", help: "the executable to measure")

    private let milliseconds: Flag<UInt64>
    private let rounds = Flag.one(
        "rounds", .integer(1...100), default: 3, help: "how often the programs take turns")
    private let only: Flag<String>
    private let json = Flag.present("json", help: "print JSON instead of a table")
    private let help = Flag.present("help", help: "show this text")
    private let schema: CommandSchema

    /// - Parameters:
    ///   - milliseconds: how long a run takes, if the user does not say.
    ///   - example: of words that choose loads.
    ///   - more: flags that only this program has.
    package init(
        _ name: String, summary: String, milliseconds: UInt64, example: String,
        more: [AnyFlag] = []
    ) {
        self.milliseconds = Flag.one(
            "milliseconds", .integer(50...60000), default: milliseconds,
            help: "how long each run takes")
        only = Flag.one(
            "only", .text("WORDS"), default: "",
            help: "measure only loads with all these words, for example '\(example)'")
        schema = CommandSchema(
            name, summary: summary,
            groups: [
                .init(
                    "Options",
                    [Self.apus.any] + more
                        + [self.milliseconds.any, rounds.any, only.any, json.any, help.any])
            ])
    }

    /// Measures programs under loads, as the command line says.
    /// - Parameters:
    ///   - unit: what `LoadSample.rate` counts.
    ///   - cases: makes the loads.
    ///   - name: a load's name, whose words choose it.
    ///   - measure: measures the program of a number for some time; `nil` if it does not know such
    ///     a load.
    package func run<Case>(
        _ contenders: [Comparison.Contender], unit: String,
        volume: Comparison.Volume = .mebibytes, _ cases: (CommandValues) throws -> [Case],
        named name: (Case) -> String,
        measure: (Int, Case, _ nanoseconds: UInt64, CommandValues) throws -> LoadSample?
    ) {
        runBenchmark(schema, isHelp: help) { values in
            let all = try cases(values)
            var comparison = Comparison(
                contenders, unit: unit, volume: volume, rounds: Int(values[rounds]),
                isJSON: values[json])
            let words = values[only].split(separator: " ")
            for measured in all {
                let own = name(measured).split(separator: " ")
                guard words.allSatisfy({ own.contains($0) }) else { continue }
                try comparison.measure(name(measured)) { index in
                    try measure(index, measured, values[milliseconds] * 1_000_000, values)
                }
            }
            try comparison.finish()
        }
    }
}
