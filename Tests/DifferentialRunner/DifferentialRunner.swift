import Core
import Glibc

@testable import Differential
@testable import TCG

/// Runs random instructions and sequences of them on the host CPU and in Apus's own, for as long as
/// wanted (CONTRIBUTING.md, "Against the host's CPU").
@main
enum DifferentialRunner {
    private enum Flags {
        static let kind = Flag.many(
            "kind", .choice(Work.self), help: "what to compare; all, if none is named")
        static let tier = Flag.many(
            "tier", .choice(TCGOptions.Tier.self),
            help: "who runs the guest's side; translator and interpreter, if none is named")
        static let seed = Flag.one(
            "seed", .integer(0...UInt64(Int64.max)), default: 1, help: "the first series' number")
        static let count = Flag.one(
            "count", .integer(1...1_000_000_000), default: 20_000,
            help: "how many make a series")
        static let seconds = Flag.one(
            "seconds", .integer(0...10_000_000), default: 0,
            help: "how long to go on with further series; without it, there is one")
        static let code = Flag.one(
            "code", .string,
            help: "a sequence's bytes, as they are printed: that one again and again")
        static let help = Flag.present("help", help: "show this text")

        static let all = [kind.any, tier.any, seed.any, count.any, seconds.any, code.any, help.any]
    }

    private static let schema = CommandSchema(
        "tcg-differential",
        summary: """
            Runs random code on the host's CPU and in Apus's own, and compares: tcg-differential [OPTIONS]
            The status is 1 if something differs.
            """,
        groups: [.init("Options", Flags.all)])

    static func main() {
        do {
            let values = try schema.parse(Array(CommandLine.arguments.dropFirst()))
            if values[Flags.help] { return print(schema.help, terminator: "") }
            exit(try run(values) ? 0 : 1)
        } catch {
            let line = Array("tcg-differential: \(error)\n".utf8)
            _ = unsafe write(2, line, line.count)
            exit(error is OptionError ? 2 : 1)
        }
    }

    /// - Returns: whether all is the same.
    private static func run(_ values: CommandValues) throws -> Bool {
        let kinds = values[Flags.kind].isEmpty ? Work.allCases : values[Flags.kind]
        let tiers: [TCGOptions.Tier] =
            values[Flags.tier].isEmpty ? [.translator, .interpreter] : values[Flags.tier]
        let pairs = kinds.filter(\.isSupported).flatMap { kind in tiers.map { (kind, $0) } }
        var totals = Array(repeating: Total(), count: pairs.count)
        let end = Clock.monotonic() &+ values[Flags.seconds] &* 1_000_000_000
        var seed = values[Flags.seed]
        repeat {
            for (index, (kind, tier)) in pairs.enumerated() {
                let start = Clock.monotonic()
                let result = try kind.run(
                    tier, seed: seed, count: Int(values[Flags.count]),
                    code: values[Flags.code] ?? "")
                totals[index].add(result, Clock.monotonic() &- start)
                for text in result.differences {
                    print("\(kind.rawValue) \(tier.rawValue), seed \(seed): \(text)")
                }
            }
            print("series \(seed)")
            for (index, (kind, tier)) in pairs.enumerated() {
                print("  \(kind.rawValue) \(tier.rawValue): \(totals[index].text)")
            }
            _ = fflush(nil)
            seed += 1
        } while Clock.monotonic() < end
        print("\(totals.reduce(0) { $0 + $1.compared }) in all")
        return totals.allSatisfy { $0.differences == 0 }
    }
}

/// What has been compared of one kind in one tier.
private struct Total {
    var compared = 0
    var differences = 0
    private var nanoseconds: UInt64 = 0

    mutating func add(_ result: Work.Result, _ time: UInt64) {
        compared += result.compared
        differences += result.differences.count
        nanoseconds &+= time
    }

    var text: String {
        let rate = nanoseconds == 0 ? 0 : UInt64(compared) &* 1_000_000 / (nanoseconds / 1000 + 1)
        return "\(compared), \(differences) different, \(rate) a second"
    }
}

/// What can be compared: kinds of sequences, and classes of single instructions.
private enum Work: String, CaseIterable {
    case integer, vector, x87, avx, stack, pointers, branches, flow, moved
    case singleInteger = "single-integer"
    case singleX87 = "single-x87"
    case singleVector = "single-vector"
    case singleAVX = "single-avx"
    case singleBits = "single-bits"

    struct Result {
        var compared: Int
        var differences: [String]
    }

    private var single: InstructionClass? {
        switch self {
        case .singleInteger: .integer
        case .singleX87: .x87
        case .singleVector: .vector
        case .singleAVX: .avx
        case .singleBits: .bits
        default: nil
        }
    }

    var isSupported: Bool {
        single?.isSupported ?? (self != .avx || InstructionClass.avx.isSupported)
    }

    /// - Parameter code: bytes in hexadecimal digits, in place of random ones in sequences.
    func run(_ tier: TCGOptions.Tier, seed: UInt64, count: Int, code: String) throws -> Result {
        if let single {
            let run = try DifferentialRun(seed: seed, tier: tier)
            run.compare(single, count: count)
            let texts = run.differences.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }
            return Result(compared: count, differences: texts)
        }
        guard let kind = SequenceKind(rawValue: rawValue) else {
            return Result(compared: 0, differences: [])
        }
        let run = try DifferentialRun(seed: seed, tier: tier, runs: kind.runs)
        let bytes = code.split(separator: " ").compactMap { UInt8($0, radix: 16) }
        let differences =
            bytes.isEmpty
            ? run.compare(kind, count: count, seed: seed)
            : (0..<count).compactMap { _ in run.compare((bytes, RFLAGS.arithmetic), kind) }
        return Result(compared: count, differences: differences)
    }
}
