public import Accelerator
internal import CLinux
internal import Core
internal import Glibc
internal import Synchronization

/// One virtual CPU of KVM's.
///
/// Kicks: `kick` says so in `isKicked`, then in the page shared with KVM (`immediate_exit`), and
/// sends a signal whose handler does nothing. Whatever the CPU's thread was doing, it leaves KVM or
/// does not enter it.
// SAFETY: everything mutable belongs to the thread that runs the CPU; other threads use atomics.
@safe public final class KVMVCPU: VirtualCPU, @unchecked Sendable {
    /// What has happened so far, to be read while the CPU does not run or roughly at any time.
    public struct Counters: Sendable, Equatable {
        /// Returns from KVM: each is a wake-up of our thread.
        public var exits: UInt64 = 0
        /// Instructions that the fallback executed.
        public var fallbacks: UInt64 = 0
    }

    /// PKRU's component of an XSAVE image.
    static let pkru: UInt64 = 1 << 9

    let machine: KVMVirtualMachine
    let surface: any ExitSurface
    let index: Int
    let fd: SharedFD
    private let mapping: MemoryMapping
    /// The page shared with KVM.
    let shared: UnsafeMutablePointer<kvm_run>
    private let immediateExit: UnsafeMutablePointer<Atomic<UInt8>>
    private let isKicked = Atomic<Bool>(false)
    /// The thread that is in `run`, or 0.
    private let thread = Atomic<Int32>(0)
    public internal(set) var counters = Counters()
    /// KVM waits to be entered again to complete a device access.
    var hasOpenAccess = false
    var faults = FaultProgress()
    /// The state after power-on, which a reset restores.
    private(set) var powerOn = KVMVCPUState()
    /// Room for an XSAVE image.
    var xsaveImage: [UInt8]
    /// What XCR0 can hold by the guest's CPUID.
    private(set) var permittedXCR0: UInt64 = 3
    /// Where an XSAVE image has PKRU, if guests have it.
    private(set) var pkruOffset: Int?

    init(_ machine: KVMVirtualMachine, index: Int) throws(AcceleratorError) {
        self.machine = machine
        self.index = index
        surface = machine.surface
        xsaveImage = [UInt8](repeating: 0, count: machine.host.xsaveSize)
        do {
            fd = SharedFD(
                owning: try checking(
                    "KVM_CREATE_VCPU",
                    clinux_ioctl(machine.fd.rawValue, CLINUX_KVM_CREATE_VCPU, UInt(index))))
            mapping = try MemoryMapping(sharing: fd.rawValue, size: machine.host.runSize)
            // SAFETY: KVM put its structure at the start of the page, and the mapping is as large
            // as it said.
            unsafe shared = mapping.base.assumingMemoryBound(to: kvm_run.self)
            let offset = MemoryLayout<kvm_run>.offset(of: \.immediate_exit) ?? 1
            unsafe immediateExit = (mapping.base + offset).assumingMemoryBound(
                to: Atomic<UInt8>.self)
            try setCPUID()
            powerOn = try readState()
        } catch {
            throw AcceleratorError("KVM cannot make CPU \(index): \(error)")
        }
    }

    private func setCPUID() throws(SystemError) {
        let table = KVMCPUID(
            supported: machine.host.cpuid, id: UInt32(index), cpuCount: machine.cpuCount,
            tscKilohertz: machine.tscKilohertz,
            hasDeadlineTimer: machine.host.has(KVM_CAP_TSC_DEADLINE_TIMER),
            isComplete: machine.host.shortcoming == nil)
        let entries = table.entries
        // SAFETY: the array has as many entries as are announced.
        let result = unsafe clinux_kvm_set_cpuid(fd.rawValue, entries, UInt32(entries.count))
        _ = try checking("KVM_SET_CPUID2", result)
        if let leaf = table[0xD, 0] { permittedXCR0 |= UInt64(leaf.edx) << 32 | UInt64(leaf.eax) }
        if permittedXCR0 & Self.pkru != 0, let leaf = table[0xD, 9] { pkruOffset = Int(leaf.ebx) }
    }

    // MARK: Running

    public func run() -> VCPUExit {
        // Threads may have been made by one that takes no signals.
        thread.store(clinux_kvm_accept_kicks(), ordering: .sequentiallyConsistent)
        defer { thread.store(0, ordering: .sequentiallyConsistent) }
        while true {
            if isKicked.load(ordering: .sequentiallyConsistent), takeKick() {
                return afterOpenAccess(.kicked)
            }
            if let exit = enter() { return afterOpenAccess(exit) }
        }
    }

    /// Runs the guest until KVM returns, and does what it wants.
    @inline(__always)
    private func enter() -> VCPUExit? {
        let result = clinux_kvm_run(fd.rawValue)
        counters.exits &+= 1
        hasOpenAccess = false
        if result == 0 { return handleExit() }
        switch -result {
        case EINTR:
            if takeKick() { return .kicked }
            return nil
        // A CPU that waits for INIT and a start-up IPI.
        case EAGAIN: return nil
        case EFAULT where machine.hasWindows: return handleMemoryFault()
        default: return failure("KVM_RUN failed: \(SystemError("ioctl", errno: -result).reason)")
        }
    }

    /// What to report when the access that the last exit was about is complete. It must not be
    /// completed later: it may be a part of an instruction whose other parts are accesses as well,
    /// and by then the devices may have been reset.
    private func afterOpenAccess(_ exit: VCPUExit) -> VCPUExit {
        if !hasOpenAccess { return exit }
        var exit = exit
        while hasOpenAccess {
            // KVM completes the access and returns, at the latest after 1024 elements of a string;
            // no other instruction is executed.
            setImmediateExit(true)
            let result = clinux_kvm_run(fd.rawValue)
            hasOpenAccess = false
            // What the first access asks for counts, and more than a kick.
            if result == 0, let next = handleExit(), case .kicked = exit { exit = next }
        }
        setImmediateExit(false)
        // A kick may just have come.
        if isKicked.load(ordering: .sequentiallyConsistent) { setImmediateExit(true) }
        return exit
    }

    // MARK: Kicks

    /// Takes a kick, if there is one. What follows a later kick stays.
    private func takeKick() -> Bool {
        setImmediateExit(false)
        return isKicked.exchange(false, ordering: .sequentiallyConsistent)
    }

    public func kick() {
        isKicked.store(true, ordering: .sequentiallyConsistent)
        setImmediateExit(true)
        let thread = thread.load(ordering: .sequentiallyConsistent)
        if thread != 0 { _ = clinux_kvm_kick(thread) }
    }

    /// Whether KVM returns before it executes anything.
    private func setImmediateExit(_ isSet: Bool) {
        // SAFETY: a byte of the shared page, which is mapped as long as this object lives. KVM
        // reads it at any time, so all accesses are atomic.
        unsafe immediateExit.pointee.store(isSet ? 1 : 0, ordering: .sequentiallyConsistent)
    }

    public var retiredInstructions: UInt64 { 0 }
}
