import Accelerator
import Core
import Synchronization
import Testing

@testable import KVM

@Suite("State of a vCPU")
struct StateTests {
    /// Stops in the middle with state in all kinds of registers, and goes on to report it.
    private func makeGuest(_ provider: Provider = .kvm) throws -> GuestMachine {
        let guest = try GuestMachine(provider)
        var code = GuestCode()
        code.loadIDT()
        code.enableAPIC()
        code.raw(0x0F, 0x20, 0xE0, 0x0D, 0x00, 0x06, 0x00, 0x00, 0x0F, 0x22, 0xE0)  // OSFXSR
        code.set(.rbx, 0x5151)
        code.set(.rdi, 0x7000)
        code.raw(0xF3, 0x0F, 0x6F, 0x07)  // movdqu xmm0, [rdi]
        code.writeMSR(0xC000_0082, 0x1234_5678)
        code.raw(0xE6, TestSurface.endPort)
        code.report(.rbx)
        code.set(.rdi, 0x7010)
        code.raw(0xF3, 0x0F, 0x7F, 0x07)  // movdqu [rdi], xmm0
        code.loadEAX(0x7018)
        code.report(.rax)
        code.set(.rcx, 0xC000_0082)
        code.raw(0x0F, 0x32)  // rdmsr
        code.report(.rax)
        // The APIC still takes interrupts.
        code.writeMSR(0x830, 1 << 18 | 0x41)  // to itself
        code.set(.rbx, 0)
        code.waitForRBX(1)
        code.report(.rbx)
        code.end()
        try guest.put(code)
        try guest.countInterrupts(vector: 0x41)
        for index in 0..<16 as Range<UInt64> { try guest.put(0x7000 + index, UInt8(index)) }
        return guest
    }

    private static let results: [UInt32] = [0x5151, 0x0B0A_0908, 0x1234_5678, 1]

    /// Without what goes on by itself.
    private func timeless(_ state: KVMVCPUState) -> KVMVCPUState {
        var state = state
        state.modelSpecific.removeAll { $0.number == 0x10 }
        return state
    }

    @Test(
        "what is set is what is read, and the guest goes on from there",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func roundTrip() throws {
        let guest = try makeGuest()
        let cpu = try #require(guest.kvmCPU)
        #expect(try guest.run() == .powerOff)
        let state = try cpu.state()
        #expect(state.generalRegisters[3] == 0x5151)
        cpu.setInitialState(.reset)
        #expect(try cpu.state().rip == 0xFFF0)
        try cpu.setState(state)
        #expect(timeless(try cpu.state()) == timeless(state))
        #expect(try guest.resume() == .powerOff)
        #expect(guest.surface.results == Self.results)
    }

    @Test("a guest that is stopped goes on with the same results, under TCG")
    func stoppedTCG() throws {
        let guest = try makeGuest(.tcg)
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [])
        #expect(try guest.resume() == .powerOff)
        #expect(guest.surface.results == Self.results)
    }

    @Test(
        "a guest goes on in another machine",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func transplant() throws {
        let guest = try makeGuest()
        #expect(try guest.run() == .powerOff)
        let state = try #require(guest.kvmCPU).state()
        let other = try GuestMachine(.kvm)
        try other.memory.write(
            GuestAddress(0),
            try guest.memory.readBytes(GuestAddress(0), count: Int(GuestMachine.programEnd)))
        try #require(other.kvmCPU).setState(state)
        let clock = try #require(guest.kvmMachine).clock
        try #require(other.kvmMachine).setClock(clock + 1_000_000_000_000)
        #expect(try other.resume() == .powerOff)
        #expect(other.surface.results == Self.results)
        #expect(try #require(other.kvmMachine).clock >= clock + 1_000_000_000_000)
    }

    @Test(
        "state of another version is refused",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func version() throws {
        let guest = try GuestMachine(.kvm)
        let cpu = try #require(guest.kvmCPU)
        var state = try cpu.state()
        state.version = 2
        #expect(throws: AcceleratorError.self) { try cpu.setState(state) }
    }

    @Test(
        "a machine that is started again does the same again",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"), arguments: GuestProgram.all)
    func restart(program: GuestProgram) throws {
        let guest = try GuestMachine(.kvm, cpuCount: program.cpuCount)
        guest.surface.action.withLock { action in
            action = { [weak machine = guest.machine] in
                machine?.signalMSI(address: 0xFEE0_0000, data: $0)
            }
        }
        for gate in program.gates { try guest.setGate(gate.vector, gate.handler) }
        for _ in 0..<2 {
            for piece in program.pieces { try guest.put(piece) }
            try guest.put(0x8100, 0 as UInt16)
            guest.surface.record.withLock { $0 = .init() }
            #expect(try guest.run() == program.end)
            #expect(guest.surface.record.withLock { $0 } == program.expected)
        }
    }

}

/// Which pages a guest writes to.
@Suite("Dirty pages")
struct DirtyPageTests {
    private static let start: UInt64 = 0x20_0000
    private static let written: [UInt64] = [0x30_0000, 0x30_5000, 0x3F_F000]

    /// Writes to three pages above `start`, and reads another one.
    private func makeGuest(_ provider: Provider) throws -> GuestMachine {
        let guest = try GuestMachine(provider)
        var code = GuestCode()
        code.set(.rax, 0x1234_5678)
        for address in [0x30_0000, 0x30_0FFC, 0x30_5000, 0x3F_F000] as [UInt64] {
            code.storeEAX(address)
        }
        code.loadEAX(0x31_0000)
        code.end()
        try guest.put(code)
        return guest
    }

    @Test(
        "the dirty log names the pages that the guest wrote to, once",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func dirtyLog() throws {
        let guest = try makeGuest(.kvm)
        let machine = try #require(guest.kvmMachine)
        try machine.setDirtyLogging(true)
        #expect(try guest.run() == .powerOff)
        #expect(try dirtyPages(machine) == Self.written)
        #expect(try changedPages(guest) == Self.written)
        #expect(try dirtyPages(machine) == [])
        #expect(try guest.run() == .powerOff)
        #expect(try dirtyPages(machine) == Self.written)
        try machine.setDirtyLogging(false)
        #expect(throws: AcceleratorError.self) { try machine.takeDirtyPages() }
    }

    /// TCG has no log yet; the guest does the same.
    @Test("the same pages change under TCG")
    func changed() throws {
        let guest = try makeGuest(.tcg)
        #expect(try guest.run() == .powerOff)
        #expect(try changedPages(guest) == Self.written)
    }

    private func dirtyPages(_ machine: KVMVirtualMachine) throws -> [UInt64] {
        let bitmap = try machine.takeDirtyPages()[0]
        return (0..<UInt64(bitmap.count * 64)).filter {
            bitmap[Int($0 / 64)] >> ($0 % 64) & 1 != 0 && $0 * 4096 >= Self.start
        }.map { $0 * 4096 }
    }

    /// Pages that are not all zero any more.
    private func changedPages(_ guest: GuestMachine) throws -> [UInt64] {
        let bytes = try guest.memory.readBytes(
            GuestAddress(Self.start), count: Int(GuestMachine.programEnd - Self.start))
        return stride(from: 0, to: bytes.count, by: 4096).filter { page in
            bytes[page..<page + 4096].contains { $0 != 0 }
        }.map { UInt64($0) + Self.start }
    }
}
