public import Accelerator
internal import CLinux
internal import Core
internal import Glibc

/// The host's KVM, opened and found to have what this provider needs.
public final class KVMHost: Sendable {
    /// A capability that a machine cannot do without (Linux, Documentation/virt/kvm/api.rst).
    private static let required: [(number: Int32, name: String)] = [
        (KVM_CAP_USER_MEMORY, "user memory"), (KVM_CAP_SPLIT_IRQCHIP, "a split irqchip"),
        (KVM_CAP_IRQ_ROUTING, "interrupt routing"), (KVM_CAP_IRQFD, "irqfd"),
        (KVM_CAP_SIGNAL_MSI, "MSI injection"), (KVM_CAP_IOEVENTFD_ANY_LENGTH, "ioeventfd"),
        (KVM_CAP_IMMEDIATE_EXIT, "immediate exits"), (KVM_CAP_EXT_CPUID, "CPUID tables"),
        (KVM_CAP_MP_STATE, "MP states"), (KVM_CAP_VCPU_EVENTS, "vCPU events"),
        (KVM_CAP_DEBUGREGS, "debug registers"), (KVM_CAP_XSAVE, "XSAVE state"),
        (KVM_CAP_XCRS, "XCRs"), (KVM_CAP_ADJUST_CLOCK, "a clock that can be set"),
        (KVM_CAP_GET_TSC_KHZ, "a known TSC frequency"),
    ]
    static let version: Int32 = 12

    let fd: SharedFD
    /// Bytes of a vCPU's shared page, and of its XSAVE image.
    let runSize: Int
    let xsaveSize: Int
    let cpuid: [kvm_cpuid_entry2]
    let msrNumbers: [UInt32]

    /// Whether the processor has what KVM stands on.
    public static var hasHardware: Bool { clinux_has_virtualisation() != 0 }

    /// - Parameter path: `/dev/kvm`, but for tests.
    public init(path: String = "/dev/kvm") throws(AcceleratorError) {
        // SAFETY: the path lives for the call.
        let opened = unsafe clinux_open(path, O_RDWR, 0)
        guard opened >= 0 else { throw Self.cannotOpen(path, -opened) }
        fd = SharedFD(owning: opened)
        let version = clinux_ioctl(opened, CLINUX_KVM_GET_API_VERSION, 0)
        guard version == Self.version else {
            throw AcceleratorError(
                version < 0
                    ? "'\(path)' is not KVM"
                    : "KVM has version \(version) of its interface, and only \(Self.version) is"
                        + " known")
        }
        let missing = Self.required.filter {
            clinux_ioctl(opened, CLINUX_KVM_CHECK_EXTENSION, UInt($0.number)) <= 0
        }
        guard missing.isEmpty else {
            let names = missing.map(\.name).joined(separator: ", ")
            throw AcceleratorError("the host's KVM is too old or too small: it lacks \(names)")
        }
        do {
            runSize = Int(
                try checking("KVM", clinux_ioctl(opened, CLINUX_KVM_GET_VCPU_MMAP_SIZE, 0)))
            cpuid = try Self.supportedCPUID(opened)
            msrNumbers = try Self.stateMSRs(opened)
        } catch {
            throw AcceleratorError("KVM does not say what it can do: \(error.reason)")
        }
        let xsave = clinux_ioctl(opened, CLINUX_KVM_CHECK_EXTENSION, UInt(KVM_CAP_XSAVE2))
        xsaveSize = max(4096, Int(xsave))
    }

    static func cannotOpen(_ path: String, _ code: Int32) -> AcceleratorError {
        switch code {
        case ENOENT, ENODEV, ENXIO:
            AcceleratorError(
                "this host has no KVM: '\(path)' does not exist; load the module kvm_intel or"
                    + " kvm_amd, or use --accel tcg")
        case EACCES, EPERM:
            AcceleratorError(
                "KVM is there but '\(path)' may not be opened; join its group (usually kvm), or"
                    + " use --accel tcg")
        default:
            AcceleratorError(
                "'\(path)' cannot be opened: \(SystemError("open", errno: code).reason)")
        }
    }

    /// What x86-64-v2 has beyond the first level, and ordinary kernels are built for or find at
    /// once: bits of CPUID leaf 1, ECX (x86-64 psABI, table 3.1).
    private static let baseline: [(bit: UInt32, name: String)] = [
        (0, "SSE3"), (9, "SSSE3"), (13, "CMPXCHG16B"), (19, "SSE4.1"), (20, "SSE4.2"),
        (23, "POPCNT"),
    ]

    /// Why this KVM is no place for ordinary kernels, or `nil`. A KVM whose guests would have less
    /// than x86-64-v2, though every processor with virtualisation has more, emulates in software.
    public var shortcoming: String? {
        let leaf = cpuid.first { $0.function == 1 }
        let missing = Self.baseline.filter { (leaf?.ecx ?? 0) >> $0.bit & 1 == 0 }
        if missing.isEmpty { return nil }
        let names = missing.map(\.name).joined(separator: ", ")
        return "its guests lack \(names) of x86-64-v2"
    }

    func has(_ capability: Int32) -> Bool {
        clinux_ioctl(fd.rawValue, CLINUX_KVM_CHECK_EXTENSION, UInt(capability)) > 0
    }

    private static func supportedCPUID(_ fd: Int32) throws(SystemError) -> [kvm_cpuid_entry2] {
        var room: UInt32 = 128
        while true {
            var entries = [kvm_cpuid_entry2](repeating: kvm_cpuid_entry2(), count: Int(room))
            var count = room
            // SAFETY: the array has `count` places.
            let result = unsafe clinux_kvm_supported_cpuid(fd, &entries, &count)
            if result == -E2BIG, room < 4096 {
                room *= 2
                continue
            }
            _ = try checking("KVM_GET_SUPPORTED_CPUID", result)
            return Array(entries.prefix(Int(count)))
        }
    }

    private static func stateMSRs(_ fd: Int32) throws(SystemError) -> [UInt32] {
        var numbers = [UInt32](repeating: 0, count: 1024)
        var count = UInt32(numbers.count)
        // SAFETY: the array has `count` places.
        let result = unsafe clinux_kvm_msr_list(fd, &numbers, &count)
        _ = try checking("KVM_GET_MSR_INDEX_LIST", result)
        return Array(numbers.prefix(Int(count)))
    }
}
