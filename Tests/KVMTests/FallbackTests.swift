import Accelerator
import Core
import KVM
import Synchronization
import TCG
import Testing

/// What happens where KVM gives up, which only emulated KVMs do for common instructions.
@Suite(
    "Instructions that KVM cannot execute",
    .enabled(if: Provider.isKVMEmulated, "the host's KVM executes everything"))
struct FallbackTests {
    @Test("are executed one at a time and counted")
    func counting() throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.set(.rcx, 0xF0F0)
        for _ in 0..<10 { code.raw(0xF3, 0x0F, 0xB8, 0xC1) }  // popcnt eax, ecx
        code.report(.rax)
        code.end()
        try guest.put(code)
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [8])
        #expect(guest.kvmCPU?.counters.fallbacks == 10)
    }

    @Test("reach devices")
    func devices() throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.set(.rdi, 0xD000_0010)
        code.raw(0xF3, 0x0F, 0xB8, 0x07)  // popcnt eax, [rdi]
        code.report(.rax)
        code.end()
        try guest.put(code)
        #expect(try guest.run() == .powerOff)
        // 10, 11, 12 and 13 hexadecimal have 1, 2, 2 and 3 bits.
        #expect(guest.surface.results == [8])
    }

    /// Takes x87, SSE and AVX state from an image and puts it into another one.
    @Test("carry state that the fallback has no instructions for")
    func extendedState() throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.raw(0x0F, 0x20, 0xE0, 0x0D, 0x00, 0x06, 0x04, 0x00, 0x0F, 0x22, 0xE0)  // OSXSAVE
        code.set(.rcx, 0)
        code.set(.rax, 7)
        code.set(.rdx, 0)
        code.raw(0x0F, 0x01, 0xD1)  // xsetbv
        code.raw(0x0F, 0x01, 0xD0)  // xgetbv
        code.report(.rax)
        code.set(.rdi, 0x30_0000)
        code.set(.rax, 7)
        code.raw(0x48, 0x0F, 0xAE, 0x2F)  // xrstor64 [rdi]
        code.set(.rdi, 0x30_1000)
        code.raw(0x48, 0x0F, 0xAE, 0x27)  // xsave64 [rdi]
        // AVX's initial state, and what of it is in use then.
        code.set(.rdi, 0x30_2000)
        code.set(.rax, 4)
        code.raw(0x48, 0x0F, 0xAE, 0x2F)
        code.set(.rdi, 0x30_3000)
        code.set(.rax, 7)
        code.raw(0x48, 0x0F, 0xC7, 0x27)  // xsavec64 [rdi]
        code.end()
        try guest.put(code)
        for word in 0..<104 as Range<UInt64> { try guest.put(0x30_0000 + 8 * word, 77 * word) }
        try guest.put(0x30_0000, 0x37F as UInt64)
        try guest.put(0x30_0018, 0x1FA0 as UInt64)
        for word in 4..<20 as Range<UInt64> { try guest.put(0x30_0000 + 8 * word, 0 as UInt64) }
        for word in 64..<72 as Range<UInt64> { try guest.put(0x30_0000 + 8 * word, 0 as UInt64) }
        try guest.put(0x30_0200, 7 as UInt64)
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [7])
        let upper = try guest.memory.readBytes(GuestAddress(0x30_0240), count: 256)
        #expect(try guest.memory.readBytes(GuestAddress(0x30_1240), count: 256) == upper)
        let vectors = try guest.memory.readBytes(GuestAddress(0x30_00A0), count: 256)
        #expect(try guest.memory.readBytes(GuestAddress(0x30_10A0), count: 256) == vectors)
        #expect(try guest.get(0x30_1200, as: UInt64.self) & 6 == 6)
        #expect(try guest.get(0x30_3200, as: UInt64.self) & 6 == 2)
        #expect(try guest.get(0x30_3208, as: UInt64.self) == 1 << 63 | 7)
        #expect(try guest.get(0x30_3240, as: UInt64.self) == 0)
    }

    @Test("and that the fallback does not know either stop the guest with a sentence")
    func unsupported() throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.raw(0x0F, 0x38, 0xC8, 0xC1)  // sha1nexte xmm0, xmm1
        try guest.put(code)
        guard case .exit(let text) = try guest.run() else {
            Issue.record("the guest did not stop")
            return
        }
        #expect(text.contains("internalError"))
        #expect(text.contains("0f 38 c8 c1"))
        #expect(text.contains("at RIP 0x5000"))
    }

    /// Processes run natively even here; but device memory is for KVM's emulator.
    @Test(
        "and that the fallback does not know either give a process #UD, and the guest goes on",
        arguments: [
            [0x0F, 0x38, 0xC8, 0x07],  // sha1nexte xmm0, [rdi]
            [0x62, 0xF1, 0x7C, 0x48, 0x10, 0x07],  // vmovups zmm0, [rdi]
        ] as [[UInt8]])
    func unsupportedInProcess(instruction: [UInt8]) throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.loadIDT()
        code.enterProcess(at: 0x5800, stack: 0x8000)
        try guest.put(code)
        var process = GuestCode(at: 0x5800)
        process.set(.rdi, 0xD000_0010)
        for byte in instruction { process.raw(byte) }
        try guest.put(process)
        var handler = GuestCode(at: 0x6000)
        for _ in 0..<2 {
            handler.raw(0x58)  // pop rax
            handler.report(.rax)
        }
        handler.end()
        try guest.put(handler)
        try guest.setGate(6, handler.start)
        #expect(try guest.run() == .powerOff)
        // RIP and CS.
        #expect(guest.surface.results == [0x580A, 0x2B])
        #expect(guest.kvmCPU?.counters.fallbacks == 0)
    }

    /// Sends an NMI to the CPU while an instruction is executed for it.
    private final class Interrupting: InstructionFallback {
        let other: TCGFallback
        let machine = Mutex<(any VirtualMachine)?>(nil)

        init(_ other: TCGFallback) { self.other = other }

        func execute(cpu: Int, _ state: inout CPUState) -> FallbackResult {
            machine.withLock { $0 }?.signalMSI(address: 0xFEE0_0000, data: 0x400)
            return other.execute(cpu: cpu, &state)
        }

        func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
            other.place(window, at: address)
        }
    }

    @Test("lose no NMI that arrives meanwhile")
    func nmi() throws {
        var fallback: Interrupting?
        let guest = try GuestMachine(
            .kvm,
            fallback: {
                fallback = Interrupting($0)
                return fallback
            })
        fallback?.machine.withLock { $0 = guest.machine }
        defer { fallback?.machine.withLock { $0 = nil } }
        var code = GuestCode()
        code.loadIDT()
        code.enableAPIC()
        code.set(.rbx, 0)
        for _ in 0..<10 {
            // The interrupts' shadow ends, so events go back to KVM.
            code.raw(0xFB, 0xF3, 0x0F, 0xB8, 0xC1)  // sti; popcnt eax, ecx
        }
        code.report(.rbx)
        code.end()
        try guest.put(code)
        var handler = GuestCode(at: 0x6000)
        handler.raw(0xFF, 0xC3, 0x48, 0xCF)  // inc ebx; iretq
        try guest.put(handler)
        try guest.setGate(2, handler.start)
        #expect(try guest.run() == .powerOff)
        #expect(guest.surface.results == [10])
    }

    @Test("without a fallback stop the guest with a sentence")
    func noFallback() throws {
        let guest = try GuestMachine(.kvm, fallback: { _ in nil })
        var code = GuestCode()
        code.raw(0xF3, 0x0F, 0xB8, 0xC1)
        try guest.put(code)
        guard case .exit(let text) = try guest.run() else {
            Issue.record("the guest did not stop")
            return
        }
        #expect(text.contains("KVM cannot execute f3 0f b8 c1"))
    }
}
