import Glibc
import TCGDecoder
import Testing

@testable import VMM

/// The decoder and Zydis agree on all code of real programs: lengths, names and operands.
@Suite("Decoder: images")
struct ImageTests {
    static let libc = "/lib/x86_64-linux-gnu/libc.so.6"

    /// The kernel of the tests' guest, which is Debian's; `nil` if `APUS_GUEST` names no guest.
    static var vmlinuz: String? {
        // SAFETY: nothing in the test process changes the environment.
        guard let folder = unsafe getenv("APUS_GUEST") else { return nil }
        let path = unsafe String(cString: folder) + "/vmlinuz"
        return unsafe access(path, R_OK) == 0 ? path : nil
    }

    @Test("every instruction of libc")
    func libc() throws {
        let outcome = compare(try ExecutableImage(path: Self.libc))
        #expect(outcome.differences.isEmpty)
        #expect(outcome.count > 300_000)
        #expect(outcome.exemptions == 0)
    }

    @Test(
        "every instruction of the kernel",
        .enabled(if: vmlinuz != nil, "APUS_GUEST names no folder with a vmlinuz"))
    func kernel() throws {
        let unpacked = try KernelImage(BootFile(#require(Self.vmlinuz), "kernel")).bytes
        let outcome = compare(try ExecutableImage(unpacked.copy(0, unpacked.count)))
        #expect(outcome.differences.isEmpty)
        #expect(outcome.count > 1_000_000)
        #expect(outcome.exemptions == 0)
    }

    private struct Outcome {
        var count = 0
        /// Bytes at which both decoders find no instruction: data between functions.
        var undecodable = 0
        /// Instructions that a known difference kept from being compared in full.
        var exemptions = 0
        /// The first few differences, with the offset in the file.
        var differences: [String] = []
    }

    /// Sweeps all executable sections from their start, by Zydis's lengths.
    private func compare(_ image: ExecutableImage) -> Outcome {
        let oracle = ZydisOracle(mode: .bits64)
        var outcome = Outcome()
        for section in image.sections {
            var position = section.range.lowerBound
            while position < section.range.upperBound {
                let end = min(position + 15, section.range.upperBound)
                var length = 0
                let difference = oracle.difference(
                    image.bytes.span.extracting(position..<end), length: &length)
                if let difference, outcome.differences.count < 20 {
                    outcome.differences.append(
                        "\(section.name) at 0x\(String(position, radix: 16)): \(difference)")
                }
                if length == 0 {
                    outcome.undecodable += 1
                } else {
                    outcome.count += 1
                }
                position += max(length, 1)
            }
        }
        outcome.exemptions = oracle.exemptions
        return outcome
    }
}
