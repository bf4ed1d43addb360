internal import CLinux

/// The CPUID table of one CPU: what KVM supports, without what a guest of ours cannot use, with the
/// machine's topology and the frequencies of its clocks (SDM volume 2, CPUID; AMD volume 3,
/// appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst).
struct KVMCPUID {
    /// Leaf 1, ECX.
    private enum Feature {
        static let monitor: UInt32 = 1 << 3
        static let vmx: UInt32 = 1 << 5
        static let performance: UInt32 = 1 << 15
        static let x2APIC: UInt32 = 1 << 21
        static let deadlineTimer: UInt32 = 1 << 24
        static let osxsave: UInt32 = 1 << 27
        static let hypervisor: UInt32 = 1 << 31
    }
    private static let svm: UInt32 = 1 << 2
    /// KVM's leaf: clock, no delay at port 0x80, clock with newer MSRs, stable clock. The rest is
    /// asynchronous page faults and hypercalls.
    private static let clockFeatures: UInt32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 24
    /// Of the local APIC's timer under KVM.
    private static let busKilohertz: UInt32 = 1_000_000
    private static let hypervisorLeaf: UInt32 = 0x4000_0000
    private static let frequencyLeaf: UInt32 = 0x4000_0010

    /// The x2APIC id.
    private let id: UInt32
    /// CPUs in the machine: cores of one package, a thread each.
    private let count: UInt32
    private let tscKilohertz: UInt32
    private let isComplete: Bool
    private let hasDeadlineTimer: Bool
    private(set) var entries: [kvm_cpuid_entry2] = []

    /// - Parameters:
    ///   - hasDeadlineTimer: whether the local APIC's timer can be set to a TSC value, which older
    ///     hosts do not say in their table.
    ///   - isComplete: `false` if this KVM is emulated by software, whose hypercalls do not work.
    init(
        supported: [kvm_cpuid_entry2], id: UInt32, cpuCount: Int, tscKilohertz: UInt32,
        hasDeadlineTimer: Bool, isComplete: Bool
    ) {
        self.id = id
        self.count = UInt32(clamping: max(1, cpuCount))
        self.tscKilohertz = tscKilohertz
        self.isComplete = isComplete
        self.hasDeadlineTimer = hasDeadlineTimer
        entries = supported.compactMap { entry in
            var entry = entry
            return adjust(&entry) ? entry : nil
        }
        addTopology()
        addFrequencies()
    }

    /// Bits of the APIC id that number the CPUs.
    private var idBits: UInt32 { count <= 1 ? 0 : UInt32(32 - (count - 1).leadingZeroBitCount) }

    /// - Returns: `false` if the leaf is not shown.
    private func adjust(_ entry: inout kvm_cpuid_entry2) -> Bool {
        switch entry.function {
        case 1:
            entry.ebx = entry.ebx & 0xffff | min(count, 255) << 16 | (id & 0xff) << 24
            entry.ecx &= ~(Feature.monitor | Feature.vmx | Feature.performance | Feature.osxsave)
            entry.ecx |= Feature.x2APIC | Feature.hypervisor
            if hasDeadlineTimer { entry.ecx |= Feature.deadlineTimer }
            if count > 1 { entry.edx |= 1 << 28 }
        case 4 where entry.eax & 31 != 0:
            // The first two levels belong to a core, the others to the package.
            let sharing = (entry.eax >> 5) & 7 < 3 ? 0 : count - 1
            entry.eax = entry.eax & 0x3fff | min(sharing, 0xfff) << 14 | min(count - 1, 63) << 26
        case 6: (entry.eax, entry.ebx, entry.ecx, entry.edx) = (1 << 2, 0, 0, 0)
        // MONITOR, performance counters, topology (made anew), SGX and tracing.
        case 5, 0xa, 0xb, 0x12, 0x14, 0x15, 0x16, 0x1f, 0x8000_000a, 0x8000_0022: return false
        case Self.hypervisorLeaf: entry.eax = max(entry.eax, Self.frequencyLeaf)
        case 0x4000_0001 where !isComplete: entry.eax &= Self.clockFeatures
        case 0x8000_0001:
            entry.ecx &= ~Self.svm
            if count > 1 { entry.ecx |= 1 << 1 } else { entry.ecx &= ~(1 << 1) }
        case 0x8000_0008: entry.ecx = (count - 1) & 0xff | idBits << 12
        case 0x8000_001d where entry.eax & 31 != 0:
            let sharing = (entry.eax >> 5) & 7 < 3 ? 0 : count - 1
            entry.eax = entry.eax & 0x3fff | min(sharing, 0xfff) << 14
        case 0x8000_001e: (entry.eax, entry.ebx, entry.ecx) = (id, id & 0xff, 0)
        default: break
        }
        return true
    }

    subscript(function: UInt32, index: UInt32) -> kvm_cpuid_entry2? {
        entries.first { $0.function == function && $0.index == index }
    }

    private mutating func add(
        _ function: UInt32, _ index: UInt32 = 0, flags: Int32 = 0, eax: UInt32, ebx: UInt32 = 0,
        ecx: UInt32 = 0, edx: UInt32 = 0
    ) {
        var entry = kvm_cpuid_entry2()
        entry.function = function
        entry.index = index
        entry.flags = UInt32(flags)
        (entry.eax, entry.ebx, entry.ecx, entry.edx) = (eax, ebx, ecx, edx)
        entries.append(entry)
    }

    /// Leaf 0Bh: level 0 is the threads of a core, level 1 the cores of the package.
    private mutating func addTopology() {
        let flag = Int32(CLINUX_KVM_CPUID_SIGNIFICANT_INDEX)
        add(0xb, 0, flags: flag, eax: 0, ebx: 1, ecx: 1 << 8, edx: id)
        add(0xb, 1, flags: flag, eax: idBits, ebx: count, ecx: 1 | 2 << 8, edx: id)
        add(0xb, 2, flags: flag, eax: 0, ecx: 2, edx: id)
    }

    /// The TSC's frequency, as a ratio to the clock of the local APIC's timer, in MHz, and in KVM's
    /// leaf.
    private mutating func addFrequencies() {
        guard tscKilohertz > 0 else { return }
        let ratio = self.ratio
        add(0x15, eax: ratio.denominator, ebx: ratio.numerator, ecx: Self.busKilohertz * 1000)
        add(0x16, eax: tscKilohertz / 1000, ebx: tscKilohertz / 1000, ecx: 100)
        add(Self.frequencyLeaf, eax: tscKilohertz, ebx: Self.busKilohertz)
        for index in entries.indices where entries[index].function == 0 {
            entries[index].eax = max(entries[index].eax, 0x16)
        }
    }

    /// Exact where Linux can use it, which multiplies kHz with the numerator in 32 bits; else to
    /// one MHz.
    private var ratio: (numerator: UInt32, denominator: UInt32) {
        var (a, b) = (tscKilohertz, Self.busKilohertz)
        while b != 0 { (a, b) = (b, a % b) }
        let exact = (tscKilohertz / a, Self.busKilohertz / a)
        if exact.0 <= UInt32.max / Self.busKilohertz { return exact }
        return ((tscKilohertz + 500) / 1000, Self.busKilohertz / 1000)
    }
}
