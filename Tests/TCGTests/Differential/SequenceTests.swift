import CNativeRun
import TCGDecoder
import Testing

@testable import Differential
@testable import TCG

extension HostTests {
    /// Random sequences run on the host CPU and in both tiers. What single instructions cannot
    /// show: flags that live across instructions, vector registers that stay in the host's, and
    /// several stack accesses behind one look into the TLB.
    ///
    /// `APUS_DIFFERENTIAL_COUNT` and `APUS_DIFFERENTIAL_SEED` as for single instructions.
    @Suite("Sequences")
    struct SequenceTests {
        @Test("instruction sequences", arguments: SequenceKind.allCases, TCGOptions.Tier.allCases)
        func sequences(_ kind: SequenceKind, _ tier: TCGOptions.Tier) throws {
            guard kind != .avx || InstructionClass.avx.isSupported else { return }
            // Not in both at once, which does not stop in the middle of a block.
            if kind.hasPlaces, tier == .both { return }
            let count = Int(
                DifferentialTests.setting("APUS_DIFFERENTIAL_COUNT")
                    ?? (kind.hasPlaces ? 400 : 4_000))
            let seed = DifferentialTests.setting("APUS_DIFFERENTIAL_SEED") ?? 1
            let run = try DifferentialRun(seed: seed, tier: tier, runs: kind.runs)
            let differences = run.compare(kind, count: count, seed: seed)
            #expect(differences.isEmpty, "\(differences.joined(separator: "\n"))")
        }
    }
}
