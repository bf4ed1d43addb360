// The processor that guests see: an AMD-like one of the options' CPUModel, which the kernel takes to be
// free of Meltdown and its kin, with KVM's paravirtual clock. Leaves: SDM volume 2, CPUID; AMD
// volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst.

/// The values of one CPUID leaf.
struct CPUIDLeaf: Equatable, BitwiseCopyable {
    var eax: UInt32 = 0
    var ebx: UInt32 = 0
    var ecx: UInt32 = 0
    var edx: UInt32 = 0
}

/// CPUID of one CPU.
struct CPUIDTable: Sendable {
    /// The x2APIC id.
    let id: UInt32
    /// CPUs in the machine: cores of one package, a thread each.
    let cpuCount: Int
    let model: CPUModel

    init(id: UInt32, cpuCount: Int, model: CPUModel = .level2) {
        self.id = id
        self.cpuCount = cpuCount
        self.model = model
    }

    static let lastBasic: UInt32 = 0xD
    static let lastExtended: UInt32 = 0x8000_0021
    static let lastHypervisor: UInt32 = 0x4000_0001
    /// Family 1Ah, model 2, stepping 1.
    static let signature: UInt32 = 0x00B0_0F21
    static let brand = "Apus virtual processor"

    private static func bits(_ numbers: [Int]) -> UInt32 { numbers.reduce(0) { $0 | 1 << $1 } }

    /// Leaf 1: SSE3, SSSE3, CX16, PCID, SSE4.1, SSE4.2, x2APIC, POPCNT, TSC-deadline, hypervisor.
    static let features1C = bits([0, 9, 13, 17, 19, 20, 21, 23, 24, 31])
    /// FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, PSE36, CLFSH, MMX,
    /// FXSR, SSE, SSE2.
    static let features1D = bits([
        0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26,
    ])
    /// Leaf 7: FSGSBASE, TSC_ADJUST, SMEP, ERMS, INVPCID, SMAP.
    static let features7B = bits([0, 1, 7, 9, 10, 20])
    /// UMIP.
    static let features7C = bits([2])
    /// FSRM.
    static let features7D = bits([4])
    /// Leaf 8000_0001: LAHF, 3DNow! prefetch, topology extensions.
    static let featuresExtendedC = bits([0, 8, 22])
    /// What AMD repeats of leaf 1, and SYSCALL, NX, 1 GiB pages, RDTSCP, LM.
    static let featuresExtendedD =
        bits([0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 15, 16, 17, 23, 24]) | bits([11, 20, 26, 27, 29])
    /// Leaf 8000_0008: not affected by speculative store bypass and branch type confusion.
    static let features8B = bits([26, 29])
    /// Leaf 8000_0021: no nested data breakpoints, LFENCE always serialises, null selectors clear
    /// the base, automatic IBRS, not affected by SRSO.
    static let features21A = bits([0, 2, 6, 8, 29])
    /// KVM's leaf: clock, no delay at port 0x80, clock with MSRs at 4B56_4D00, stable clock.
    static let featuresKVM = bits([0, 1, 3, 24])

    private var count: UInt32 { UInt32(clamping: max(cpuCount, 1)) }
    /// Bits of the APIC id that number the CPUs.
    private var idBits: UInt32 { count <= 1 ? 0 : UInt32(32 - (count - 1).leadingZeroBitCount) }

    /// What CPUID returns for EAX = `leaf`, ECX = `subleaf`, but for bits that mirror registers.
    func leaf(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDLeaf {
        switch leaf {
        case 0x8000_0000...Self.lastExtended: return extended(leaf, subleaf)
        case 0x4000_0000...Self.lastHypervisor: return hypervisor(leaf)
        case 0...Self.lastBasic: return basic(leaf, subleaf)
        // Beyond the last leaf of any range there is nothing, as on AMD's processors.
        default: return CPUIDLeaf()
        }
    }

    private func basic(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDLeaf {
        switch leaf {
        case 0: return vendor(Self.lastBasic)
        case 1:
            return CPUIDLeaf(
                eax: Self.signature,
                ebx: (id & 0xFF) << 24 | min(count, 255) << 16 | 8 << 8,
                ecx: Self.features1C | model.bits(.leaf1C),
                edx: Self.features1D | (count > 1 ? 1 << 28 : 0))
        case 6: return CPUIDLeaf(eax: 1 << 2)  // The APIC timer always runs.
        case 7 where subleaf == 0:
            return CPUIDLeaf(
                ebx: Self.features7B | model.bits(.leaf7B),
                ecx: Self.features7C | model.bits(.leaf7C), edx: Self.features7D)
        case 0xB: return topology(subleaf)
        case 0xD where model.hasAVX: return extendedState(subleaf)
        default: return CPUIDLeaf()
        }
    }

    /// The components of XSAVE's images; the sizes are those with all of them.
    private func extendedState(_ subleaf: UInt32) -> CPUIDLeaf {
        let component = ExtendedStateLayout.host[ExtendedStateLayout.upperHalves]
        let (offset, size) = (UInt32(component.offset), UInt32(component.size))
        switch subleaf {
        case 0: return CPUIDLeaf(eax: 7, ebx: offset + size, ecx: offset + size)
        // XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
        case 1: return CPUIDLeaf(eax: 7, ebx: offset + size)
        case 2: return CPUIDLeaf(eax: size, ebx: offset)
        default: return CPUIDLeaf()
        }
    }

    private func vendor(_ last: UInt32) -> CPUIDLeaf {
        // "AuthenticAMD".
        CPUIDLeaf(eax: last, ebx: 0x6874_7541, ecx: 0x444D_4163, edx: 0x6974_6E65)
    }

    /// Leaf 0Bh: level 0 is the threads of a core, level 1 the cores of the package.
    private func topology(_ level: UInt32) -> CPUIDLeaf {
        switch level {
        case 0: return CPUIDLeaf(eax: 0, ebx: 1, ecx: 1 << 8, edx: id)
        case 1: return CPUIDLeaf(eax: idBits, ebx: count, ecx: 1 | 2 << 8, edx: id)
        default: return CPUIDLeaf(ecx: level & 0xFF, edx: id)
        }
    }

    private func hypervisor(_ leaf: UInt32) -> CPUIDLeaf {
        if leaf == 0x4000_0000 {
            // "KVMKVMKVM".
            return CPUIDLeaf(
                eax: Self.lastHypervisor, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x4D)
        }
        return CPUIDLeaf(eax: Self.featuresKVM)
    }

    private func extended(_ leaf: UInt32, _ subleaf: UInt32) -> CPUIDLeaf {
        switch leaf {
        case 0x8000_0000: return vendor(Self.lastExtended)
        case 0x8000_0001:
            return CPUIDLeaf(
                eax: Self.signature,
                ecx: Self.featuresExtendedC | (count > 1 ? 2 : 0) | model.bits(.extendedC),
                edx: Self.featuresExtendedD)
        case 0x8000_0002...0x8000_0004: return brand(Int(leaf - 0x8000_0002))
        // Caches: 32 KiB each of L1, 8 ways; 1 MiB of L2, 8 ways; 16 MiB of L3, 16 ways.
        case 0x8000_0005:
            return CPUIDLeaf(
                ecx: 32 << 24 | 8 << 16 | 1 << 8 | 64,
                edx: 32 << 24 | 8 << 16 | 1 << 8 | 64)
        case 0x8000_0006:
            return CPUIDLeaf(
                ecx: 1024 << 16 | 6 << 12 | 1 << 8 | 64,
                edx: 32 << 18 | 8 << 12 | 1 << 8 | 64)
        case 0x8000_0007: return CPUIDLeaf(edx: 1 << 8)  // Invariant TSC.
        case 0x8000_0008:
            return CPUIDLeaf(
                eax: UInt32(PageEntry.physicalBits) | 48 << 8, ebx: Self.features8B,
                ecx: (count - 1) & 0xFF | idBits << 12)
        case 0x8000_001D: return cache(subleaf)
        case 0x8000_001E: return CPUIDLeaf(eax: id, ebx: id & 0xFF)
        case 0x8000_0021: return CPUIDLeaf(eax: Self.features21A)
        default: return CPUIDLeaf()
        }
    }

    private func brand(_ part: Int) -> CPUIDLeaf {
        var bytes = Array(Self.brand.utf8)
        bytes += [UInt8](repeating: 0, count: 48 - bytes.count)
        func word(_ index: Int) -> UInt32 {
            let start = part * 16 + index * 4
            return (0..<4).reduce(0) { $0 | UInt32(bytes[start + $1]) << UInt32(8 * $1) }
        }
        return CPUIDLeaf(eax: word(0), ebx: word(1), ecx: word(2), edx: word(3))
    }

    /// AMD's cache topology: type, level and sharing; ways, partitions, line; sets.
    private func cache(_ index: UInt32) -> CPUIDLeaf {
        func entry(_ type: UInt32, _ level: UInt32, kib: UInt32, ways: UInt32, shared: UInt32)
            -> CPUIDLeaf
        {
            CPUIDLeaf(
                eax: type | level << 5 | 1 << 8 | (shared - 1) << 14, ebx: (ways - 1) << 22 | 63,
                ecx: kib * 1024 / 64 / ways - 1)
        }
        switch index {
        case 0: return entry(1, 1, kib: 32, ways: 8, shared: 1)
        case 1: return entry(2, 1, kib: 32, ways: 8, shared: 1)
        case 2: return entry(3, 2, kib: 1024, ways: 8, shared: 1)
        case 3: return entry(3, 3, kib: 16384, ways: 16, shared: min(count, 4096))
        default: return CPUIDLeaf()
        }
    }
}

extension CPU {
    /// CPUID with its register operands.
    func cpuid() {
        let leaf = UInt32(truncatingIfNeeded: self[0])
        let subleaf = UInt32(truncatingIfNeeded: self[1])
        let result = owner.cpuid.leaf(leaf, subleaf)
        self[0] = UInt64(result.eax)
        self[3] = UInt64(result.ebx)
        self[1] = UInt64(result.ecx)
        self[2] = UInt64(result.edx)
        if leaf == 1, fields.cr4 & CR4.osxsave != 0 { self[1] |= 1 << 27 }
        // Without the upper halves an image ends behind its header.
        if leaf == 0xD, fields.xcr0 & ExtendedStateLayout.avx == 0, subleaf < 2, result.ebx != 0 {
            self[3] = UInt64(ExtendedStateLayout.headerEnd)
        }
        // APIC and the like follow their enable bits.
        if leaf == 1 || leaf == 0x8000_0001, fields.apicPage == UInt64.max, !owner.apic.isEnabled {
            self[2] &= ~(1 << 9)
        }
    }

    /// VMCALL and VMMCALL: there are no hypercalls (-KVM_ENOSYS).
    func hypercall() throws(Fault) {
        try requireSupervisor()
        self[0] = is64Bit ? UInt64(bitPattern: -1000) : UInt64(UInt32(bitPattern: -1000))
    }
}
