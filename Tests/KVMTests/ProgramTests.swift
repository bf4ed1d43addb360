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

    /// What PVH promises: flat 32-bit code, and EBX.
    private func enterPVH(_ provider: Provider) throws {
        let guest = try GuestMachine(provider)
        var code = GuestCode()
        code.raw(0x89, 0xD8, 0xE7, TestSurface.resultPort)  // mov eax, ebx; out
        code.raw(0x8C, 0xC8, 0xE7, TestSurface.resultPort)  // mov eax, cs; out
        code.raw(0x0F, 0x20, 0xC0, 0xE7, TestSurface.resultPort)  // mov eax, cr0; out
        code.raw(0x40, 0xE7, TestSurface.resultPort)  // inc eax (a prefix in 64-bit code); out
        code.end()
        try guest.put(code)
        let entry = InitialCPUState.pvh(
            entry: UInt32(GuestMachine.code), startInfo: 0x6789,
            gdt: .init(base: GuestMachine.gdt, limit: 31))
        #expect(try guest.run(entry) == .powerOff)
        #expect(guest.surface.results == [0x6789, 0x10, 0x11, 0x12])
    }

    @Test("enter by PVH under KVM", .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func enterPVHKVM() throws { try enterPVH(.kvm) }

    @Test("enter by PVH under TCG")
    func enterPVHTCG() throws { try enterPVH(.tcg) }
}
