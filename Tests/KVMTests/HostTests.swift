import Accelerator
import CLinux
import Glibc
import Testing

@testable import KVM

@Suite("The host's KVM")
struct HostTests {
    private func message(_ path: String) -> String? {
        do {
            _ = try KVMHost(path: path)
            return nil
        } catch {
            return error.description
        }
    }

    @Test("a host without KVM, and something else in its place, are said")
    func missing() {
        #expect(message("/dev/no-such-kvm")?.contains("has no KVM") == true)
        #expect(message("/dev/null") == "'/dev/null' is not KVM")
    }

    @Test("a KVM that may not be opened is said")
    func forbidden() {
        let text = KVMHost.cannotOpen("/dev/kvm", EACCES).description
        #expect(text.contains("may not be opened") && text.contains("group"))
    }

    private func entry(_ function: UInt32, _ edit: (inout kvm_cpuid_entry2) -> Void)
        -> kvm_cpuid_entry2
    {
        var entry = kvm_cpuid_entry2()
        entry.function = function
        edit(&entry)
        return entry
    }

    private func table(
        _ supported: [kvm_cpuid_entry2], id: UInt32 = 2, cpuCount: Int = 3, isComplete: Bool = true
    ) -> [kvm_cpuid_entry2] {
        KVMCPUID(
            supported: supported, id: id, cpuCount: cpuCount, tscKilohertz: 2_500_000,
            hasDeadlineTimer: true, isComplete: isComplete
        ).entries
    }

    @Test("CPUID names the CPU, its package and its clocks, and hides virtualisation")
    func topology() throws {
        let entries = table([
            entry(0) { $0.eax = 0xD }, entry(1) { $0.ecx = 1 << 5 | 1 << 3 | 1 << 27 | 1 },
            entry(0xA) { $0.eax = 5 }, entry(0x4000_0000) { $0.eax = 0x4000_0001 },
            entry(0x8000_0001) { $0.ecx = 1 << 2 },
        ])
        func leaf(_ function: UInt32, _ index: UInt32 = 0) throws -> kvm_cpuid_entry2 {
            try #require(entries.first { $0.function == function && $0.index == index })
        }
        #expect(try leaf(0).eax == 0x16)
        #expect(try leaf(1).ecx == 1 | 1 << 21 | 1 << 24 | 1 << 31)
        #expect(try leaf(1).ebx == 2 << 24 | 3 << 16)
        #expect(try leaf(1).edx >> 28 & 1 == 1)
        #expect(!entries.contains { $0.function == 0xA })
        // Three cores need two bits of the id.
        #expect(try leaf(0xB, 1).eax == 2)
        #expect(try leaf(0xB, 1).ebx == 3)
        #expect(try leaf(0xB, 1).edx == 2)
        // 5 TSC ticks in 2 of the APIC's timer, which runs at 1 GHz.
        #expect(try leaf(0x15).ebx == 5)
        #expect(try leaf(0x15).eax == 2)
        #expect(try leaf(0x15).ecx == 1_000_000_000)
        #expect(try leaf(0x4000_0000).eax == 0x4000_0010)
        #expect(try leaf(0x4000_0010).eax == 2_500_000)
        #expect(try leaf(0x8000_0001).ecx == 2)
    }

    @Test("an emulated KVM offers no hypercalls")
    func hypercalls() {
        let all = [entry(0x4000_0001) { $0.eax = 0x0100_7EFB }]
        #expect(table(all, isComplete: true)[0].eax == 0x0100_7EFB)
        #expect(table(all, isComplete: false)[0].eax == 0x0100_000B)
    }
}
