import CNativeRun
import Core
import Glibc
import TCGDecoder
import Testing

@testable import Differential
@testable import TCG

extension HostTests {
    /// Random user-mode instructions run on the host CPU and in the interpreter, from the same
    /// state; registers, flags, memory and exceptions must agree.
    ///
    /// `APUS_DIFFERENTIAL_COUNT` sets the number of instructions per class,
    /// `APUS_DIFFERENTIAL_SEED` another series:
    /// `APUS_DIFFERENTIAL_COUNT=1000000 swift test --filter Differential`. Many more are for
    /// `tcg-differential` (CONTRIBUTING.md, "Against the host's CPU").
    @Suite("Differential")
    struct DifferentialTests {
        static func setting(_ name: String) -> UInt64? {
            guard let text = unsafe getenv(name) else { return nil }
            return unsafe UInt64(String(cString: text))
        }

        @Test(
            "single instructions", arguments: InstructionClass.allCases, TCGOptions.Tier.allCases)
        func singleInstructions(_ wanted: InstructionClass, _ tier: TCGOptions.Tier) throws {
            let count =
                Self.setting("APUS_DIFFERENTIAL_COUNT") ?? wanted.quickCount(tier)
            let seed = Self.setting("APUS_DIFFERENTIAL_SEED") ?? 1
            guard wanted.isSupported else { return }
            let run = try DifferentialRun(seed: seed, tier: tier)
            run.compare(wanted, count: Int(count))
            #expect(
                run.differences.isEmpty,
                "\(run.differences.count) kinds: \(run.differences.sorted { $0.key < $1.key })")
            #expect(run.compared == Int(count))
        }
    }
}
