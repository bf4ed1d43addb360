import Testing

@testable import TCG

/// What translated code finds in the table of branch targets.
@Suite("Indirect branches")
struct IndirectBranchTests {
    /// JMP RAX, CALL RAX and PUSH RAX with RET, behind an instruction of ten bytes.
    @Test(
        "to an address that no block has find none",
        arguments: [([0xFF, 0xE0], 0), ([0xFF, 0xD0], 0), ([0x50, 0xC3], 1)] as [([UInt8], UInt64)])
    func noCode(branch: (bytes: [UInt8], offset: UInt64)) throws {
        for target: UInt64 in [1 << 63, 1 << 63 | 1, 1 << 48] {
            var code: [UInt8] = [0x48, 0xB8]  // mov rax, target
            for shift in UInt64(0)..<8 {
                code.append(UInt8(truncatingIfNeeded: target >> (8 * shift)))
            }
            let machine = try BareMachine.running(code + branch.bytes)
            machine.cpu.fields.translationThreshold = 0
            machine.runUntilHalt()
            #expect(try #require(machine.exception) == (13, BareMachine.code + 10 + branch.offset))
        }
    }
}
