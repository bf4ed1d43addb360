import Accelerator
import Synchronization
import Testing

/// The same programs under both providers: what they do is the same.
@Suite("Bare guests")
struct ProgramTests {
    private func run(_ program: GuestProgram, _ provider: Provider) throws {
        let guest = try GuestMachine(provider, cpuCount: program.cpuCount)
        for piece in program.pieces { try guest.put(piece) }
        for gate in program.gates { try guest.setGate(gate.vector, gate.handler) }
        let machine = guest.machine
        guest.surface.action.withLock { action in
            action = { [weak machine] data in
                machine?.signalMSI(address: 0xFEE0_0000, data: data)
            }
        }
        #expect(try guest.run() == program.end)
        #expect(guest.surface.record.withLock { $0 } == program.expected)
    }

    @Test(
        "under KVM", .enabled(if: Provider.hasKVM, "no usable /dev/kvm"),
        arguments: GuestProgram.all)
    func kvm(program: GuestProgram) throws { try run(program, .kvm) }

    @Test("under TCG", arguments: GuestProgram.all)
    func tcg(program: GuestProgram) throws { try run(program, .tcg) }
}
