import Accelerator
import Core
import KVM
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

    @Test("and that the fallback does not know either stop the guest with a sentence")
    func unsupported() throws {
        let guest = try GuestMachine(.kvm)
        var code = GuestCode()
        code.raw(0x66, 0x0F, 0x38, 0xDC, 0xC1)  // aesenc xmm0, xmm1
        try guest.put(code)
        guard case .exit(let text) = try guest.run() else {
            Issue.record("the guest did not stop")
            return
        }
        #expect(text.contains("internalError"))
        #expect(text.contains("66 0f 38 dc c1"))
        #expect(text.contains("at RIP 0x5000"))
    }

    @Test("without a fallback stop the guest with a sentence")
    func noFallback() throws {
        let guest = try GuestMachine(.kvm, hasFallback: false)
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
