import Accelerator
import Core
import Synchronization
import Testing

@Suite("Kicks")
struct KickTests {
    /// Kicks a CPU that runs, or halts, again and again: each kick gets it out.
    private func kicks(_ provider: Provider, code bytes: [UInt8]) throws {
        let guest = try GuestMachine(provider)
        var code = GuestCode()
        for byte in bytes { code.raw(byte) }
        try guest.put(code)
        let cpu = guest.cpus[0]
        cpu.setInitialState(guest.initialState)
        let count = Atomic<Int>(0)
        let unexpected = Mutex<String?>(nil)
        let rounds = 200
        let thread = try Thread(name: "vcpu0", stackSize: 1 << 20) {
            while count.load(ordering: .relaxed) < rounds {
                let exit = cpu.run()
                guard case .kicked = exit else {
                    return unexpected.withLock { $0 = "\(exit)" }
                }
                count.wrappingAdd(1, ordering: .releasing)
            }
        }
        for round in 0..<rounds {
            // Every other one comes while the CPU is somewhere between two runs.
            if round % 2 == 0 { Clock.sleep(milliseconds: 1) }
            cpu.kick()
            var waited = 0
            while count.load(ordering: .acquiring) <= round, waited < 20_000 {
                Clock.sleep(milliseconds: 1)
                waited += 1
            }
            #expect(waited < 20_000, "kick \(round) is lost")
            if waited >= 20_000 { break }
        }
        thread.join()
        #expect(unexpected.withLock { $0 } == nil)
    }

    private static let codes: [[UInt8]] = [
        [0xEB, 0xFE],  // jmp to itself
        [0xFA, 0xF4],  // cli; hlt
        // popcnt eax, ecx; jmp back: an emulated KVM needs the fallback all the time.
        [0xF3, 0x0F, 0xB8, 0xC1, 0xEB, 0xFA],
        // vmcall; jmp back: an emulated KVM never completes it.
        [0x0F, 0x01, 0xC1, 0xEB, 0xFB],
    ]

    @Test(
        "none is lost under KVM", .enabled(if: Provider.hasKVM, "no usable /dev/kvm"),
        arguments: codes)
    func kvm(code: [UInt8]) throws { try kicks(.kvm, code: code) }

    @Test("none is lost under TCG", arguments: codes)
    func tcg(code: [UInt8]) throws { try kicks(.tcg, code: code) }

    @Test(
        "one that comes before the run counts",
        .enabled(if: Provider.hasKVM, "no usable /dev/kvm"))
    func early() throws {
        let guest = try GuestMachine(.kvm)
        guest.cpus[0].setInitialState(guest.initialState)
        guest.cpus[0].kick()
        guard case .kicked = guest.cpus[0].run() else {
            Issue.record("the CPU ran")
            return
        }
    }
}
