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
    /// The state after power-on, which a reset restores.
    private(set) var powerOn = KVMVCPUState()
    /// Room for an XSAVE image.
    var xsaveImage: [UInt8]

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
            isComplete: machine.host.shortcoming == nil
        ).entries
        // SAFETY: the array has as many entries as are announced.
        let result = unsafe clinux_kvm_set_cpuid(fd.rawValue, table, UInt32(table.count))
        _ = try checking("KVM_SET_CPUID2", result)
    }

    // MARK: Running

    public func run() -> VCPUExit {
        // Threads may have been made by one that takes no signals.
        thread.store(clinux_kvm_accept_kicks(), ordering: .sequentiallyConsistent)
        defer { thread.store(0, ordering: .sequentiallyConsistent) }
        while true {
            if isKicked.load(ordering: .sequentiallyConsistent), takeKick() { return .kicked }
            if let exit = enter() { return exit }
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
        default: return failure("KVM_RUN failed: \(SystemError("ioctl", errno: -result).reason)")
        }
    }

    /// Takes a kick, if there is one. What follows a later kick stays.
    private func takeKick() -> Bool {
        unsafe immediateExit.pointee.store(0, ordering: .sequentiallyConsistent)
        return isKicked.exchange(false, ordering: .sequentiallyConsistent)
    }

    public func kick() {
        isKicked.store(true, ordering: .sequentiallyConsistent)
        unsafe immediateExit.pointee.store(1, ordering: .sequentiallyConsistent)
        let thread = thread.load(ordering: .sequentiallyConsistent)
        if thread != 0 { _ = clinux_kvm_kick(thread) }
    }

    /// Lets KVM complete the access that the last exit was about; no instruction is executed.
    func completeOpenAccess() {
        while hasOpenAccess {
            unsafe immediateExit.pointee.store(1, ordering: .sequentiallyConsistent)
            let result = clinux_kvm_run(fd.rawValue)
            hasOpenAccess = false
            // A wide access may come in several pieces.
            if result == 0 { _ = handleExit() }
        }
        unsafe immediateExit.pointee.store(0, ordering: .sequentiallyConsistent)
        // A kick may just have come.
        if isKicked.load(ordering: .sequentiallyConsistent) {
            unsafe immediateExit.pointee.store(1, ordering: .sequentiallyConsistent)
        }
    }

    public var retiredInstructions: UInt64 { 0 }
}
