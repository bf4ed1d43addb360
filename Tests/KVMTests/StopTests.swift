import Accelerator
import Synchronization
import Testing

/// A CPU that is stopped inside an instruction that makes several accesses.
@Suite("Stops inside an instruction")
struct StopTests {
    /// A guest that executes `instruction` on device memory or ports, and ends. Each access is
    /// accompanied by a kick.
    private func makeGuest(
        _ provider: Provider, to target: UInt64 = 0xD000_0020, _ instruction: [UInt8]
    ) throws -> GuestMachine {
        let guest = try GuestMachine(provider)
        var code = GuestCode()
        code.set(.rcx, 4)
        code.set(.rdx, 0x83)
        code.set(.rsi, 0xD000_0010)
        code.set(.rdi, target)
        for byte in instruction { code.raw(byte) }
        code.end()
        try guest.put(code)
        let cpu = guest.cpus[0]
        guest.surface.meanwhile.withLock { meanwhile in meanwhile = { [weak cpu] in cpu?.kick() } }
        cpu.setInitialState(guest.initialState)
        return guest
    }

    /// Each with the bytes that it writes.
    private static let instructions: [([UInt8], [UInt8])] = [
        ([0xF3, 0xA4], [0x10, 0x11, 0x12, 0x13]),  // rep movsb
        ([0xF3, 0x6E], [0x10, 0x11, 0x12, 0x13]),  // rep outsb
        ([0xF3, 0x6C], [0x83, 0x83, 0x83, 0x83]),  // rep insb
    ]

    /// Stops the guest at its first access, starts it again, and lets it go on to its end.
    private func reset(_ provider: Provider, _ instruction: ([UInt8], [UInt8])) throws {
        let guest = try makeGuest(provider, instruction.0)
        guard case .kicked = guest.cpus[0].run() else {
            Issue.record("the kick did not stop the CPU")
            return
        }
        guest.surface.meanwhile.withLock { $0 = {} }
        // The devices are reset here.
        guest.surface.record.withLock { $0 = .init() }
        guest.cpus[0].setInitialState(guest.initialState)
        #expect(guest.surface.record.withLock { $0 } == .init())
        #expect(try guest.resume() == .powerOff)
        let record = guest.surface.record.withLock { $0 }
        let bytes = (record.writes + record.ports).flatMap { access in
            (0..<access.size).map { UInt8(truncatingIfNeeded: access.value >> UInt64(8 * $0)) }
        }
        #expect(bytes == instruction.1)
    }

    @Test(
        "nothing of it reaches devices after a reset, under KVM",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"), arguments: instructions)
    func resetKVM(instruction: ([UInt8], [UInt8])) throws { try reset(.kvm, instruction) }

    @Test("nothing of it reaches devices after a reset, under TCG", arguments: instructions)
    func resetTCG(instruction: ([UInt8], [UInt8])) throws { try reset(.tcg, instruction) }

    /// The read is kicked, and the write asks for power-off.
    private func effect(_ provider: Provider) throws {
        let guest = try makeGuest(provider, to: TestSurface.endRegister, [0xA4])  // movsb
        guard case .effect(.powerOff) = guest.cpus[0].run() else {
            Issue.record("the effect is lost")
            return
        }
    }

    @Test(
        "what its last access asks for is not lost under KVM",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func effectKVM() throws { try effect(.kvm) }

    /// Eight bytes, of which devices see two halves: in one access of KVM's, and across two pages.
    @Test(
        "what its first access asks for counts under KVM",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"),
        arguments: [0xD000_0024, 0xD000_0FFC] as [UInt64])
    func firstEffect(target: UInt64) throws {
        let guest = try makeGuest(.kvm, to: target, [0x48, 0x89, 0x07])  // mov [rdi], rax
        guest.surface.effects.withLock { $0 = [target: .reset, target + 4: .powerOff] }
        guard case .effect(.reset) = guest.cpus[0].run() else {
            Issue.record("another effect, or none")
            return
        }
    }
}
