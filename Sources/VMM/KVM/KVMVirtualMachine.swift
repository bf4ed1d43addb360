public import Accelerator
internal import CLinux
public import Core
internal import Glibc
internal import Synchronization

/// The processors' side of a machine that KVM runs: local APICs and timers are KVM's, the I/O APIC
/// and all devices are ours.
public final class KVMVirtualMachine: VirtualMachine {
    static let log = Log("kvm")
    /// Three pages that KVM on Intel's processors takes for itself, in the gap below 4 GiB.
    private static let tssAddress: UInt = 0xfffb_d000

    let host: KVMHost
    let fd: SharedFD
    let memory: GuestMemory
    let surface: any ExitSurface
    let cpuCount: Int
    let fallback: (any InstructionFallback)?
    let tscKilohertz: UInt32
    private let interrupts: KVMInterrupts
    /// Instructions on which KVM gave up: those that the fallback executes, and the others.
    let executed = RepetitionCounter()
    let refused = RepetitionCounter()
    /// Windows in the order of their slots, which follow the memory's, and where they are.
    private let windows = Mutex<[(window: SharedWindow, address: UInt64?)]>([])
    private let windowCount = Atomic<Int>(0)

    public init(
        _ host: KVMHost, memory: GuestMemory, surface: any ExitSurface, cpuCount: Int,
        fallback: (any InstructionFallback)?
    ) throws(AcceleratorError) {
        self.host = host
        self.memory = memory
        self.surface = surface
        self.cpuCount = cpuCount
        self.fallback = fallback
        do {
            _ = try checking("sigaction", clinux_kvm_install_kick())
            let raw = try Self.create(host.fd.rawValue)
            fd = SharedFD(owning: raw)
            if host.has(KVM_CAP_SET_TSS_ADDR) {
                _ = try checking(
                    "KVM_SET_TSS_ADDR", kvm(raw, CLINUX_KVM_SET_TSS_ADDR, Self.tssAddress))
            }
            _ = try checking(
                "KVM_CAP_SPLIT_IRQCHIP",
                clinux_kvm_enable(
                    raw, UInt32(KVM_CAP_SPLIT_IRQCHIP), UInt64(KVMInterrupts.pinCount)))
            if fallback != nil, host.has(KVM_CAP_EXIT_ON_EMULATION_FAILURE) {
                _ = try checking(
                    "KVM_CAP_EXIT_ON_EMULATION_FAILURE",
                    clinux_kvm_enable(raw, UInt32(KVM_CAP_EXIT_ON_EMULATION_FAILURE), 1))
            }
            let frequency = kvm(raw, CLINUX_KVM_GET_TSC_KHZ)
            tscKilohertz = UInt32(max(0, frequency))
            interrupts = KVMInterrupts(fd)
        } catch {
            throw AcceleratorError("KVM cannot make a machine: \(error)")
        }
        try setSlots(flags: 0)
    }

    private static func create(_ kvmFD: Int32) throws(SystemError) -> Int32 {
        // The kernel gives up when a signal arrives meanwhile; `clinux_ioctl` tries again.
        try checking("KVM_CREATE_VM", clinux_ioctl(kvmFD, CLINUX_KVM_CREATE_VM, 0))
    }

    public func makeVCPU(index: Int) throws(AcceleratorError) -> any VirtualCPU {
        try KVMVCPU(self, index: index)
    }

    // MARK: Memory

    private func setSlots(flags: UInt32) throws(AcceleratorError) {
        for (slot, region) in memory.regions.enumerated() {
            var request = kvm_userspace_memory_region()
            request.slot = UInt32(slot)
            request.flags = flags
            request.guest_phys_addr = region.start.rawValue
            request.memory_size = region.size
            // SAFETY: the machine keeps the memory for as long as the slots exist.
            request.userspace_addr = UInt64(UInt(bitPattern: unsafe region.base))
            do {
                try kvmSet(
                    "KVM_SET_USER_MEMORY_REGION", fd.rawValue, CLINUX_KVM_SET_USER_MEMORY_REGION,
                    request)
            } catch {
                throw AcceleratorError(
                    "KVM does not take \(region.size) bytes of memory at \(region.start): \(error)")
            }
        }
    }

    public func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
        windows.withLock { windows in
            let index = windows.firstIndex { $0.window === window } ?? windows.count
            if index == windows.count {
                windows.append((window, nil))
                windowCount.store(windows.count, ordering: .relaxed)
            }
            let slot = memory.regions.count + index
            windows[index].address = move(
                slot, window, isThere: windows[index].address != nil, to: address?.rawValue)
            // The fallback has it where KVM has it, or both do not.
            let placed = windows[index].address.map { GuestAddress($0) }
            if fallback?.place(window, at: placed) == false, placed != nil {
                windows[index].address = move(slot, window, isThere: true, to: nil)
                return false
            }
            return placed == address
        }
    }

    /// Moves a window's slot. A guest may have that done without end, and to where it cannot be.
    /// - Returns: where it is then.
    private func move(
        _ slot: Int, _ window: SharedWindow, isThere: Bool, to address: UInt64?
    ) -> UInt64? {
        do {
            if isThere { try setWindow(slot, window, at: 0, size: 0) }
            if let address { try setWindow(slot, window, at: address, size: window.size) }
            return address
        } catch {
            Self.log.guest("KVM does not take a device's shared memory: \(error)")
            return nil
        }
    }

    private func setWindow(
        _ slot: Int, _ window: SharedWindow, at address: UInt64, size: UInt64
    ) throws(SystemError) {
        var request = kvm_userspace_memory_region()
        request.slot = UInt32(slot)
        request.guest_phys_addr = address
        request.memory_size = size
        // SAFETY: `windows` keeps the memory for as long as the slot exists.
        request.userspace_addr = UInt64(UInt(bitPattern: unsafe window.base))
        try kvmSet(
            "KVM_SET_USER_MEMORY_REGION", fd.rawValue, CLINUX_KVM_SET_USER_MEMORY_REGION, request)
    }

    var hasWindows: Bool { windowCount.load(ordering: .relaxed) > 0 }

    /// The window that holds an address, and the place in it.
    func window(at address: UInt64) -> (window: SharedWindow, offset: UInt64)? {
        guard hasWindows else { return nil }
        return windows.withLock { windows in
            for (window, start) in windows {
                guard let start, address >= start, address - start < window.size else { continue }
                return (window, address - start)
            }
            return nil
        }
    }

    /// Starts or stops the record of pages that CPUs write to.
    public func setDirtyLogging(_ isOn: Bool) throws(AcceleratorError) {
        try setSlots(flags: isOn ? UInt32(KVM_MEM_LOG_DIRTY_PAGES) : 0)
    }

    /// The pages that CPUs have written to since the last call: for each region of the memory, one
    /// bit per page of 4 KiB.
    public func takeDirtyPages() throws(AcceleratorError) -> [[UInt64]] {
        var result: [[UInt64]] = []
        for (slot, region) in memory.regions.enumerated() {
            var bitmap = [UInt64](repeating: 0, count: Int((region.size / 4096 + 63) / 64))
            // SAFETY: the bitmap has a bit for every page of the slot.
            let code = unsafe clinux_kvm_dirty_log(fd.rawValue, UInt32(slot), &bitmap)
            guard code >= 0 else {
                throw AcceleratorError(
                    "KVM gives no dirty log: \(SystemError("KVM_GET_DIRTY_LOG", errno: -code))")
            }
            result.append(bitmap)
        }
        return result
    }

    public func memoryChangedOutside() {}

    // MARK: Clock

    /// Nanoseconds of the guests' paravirtual clock.
    public var clock: UInt64 {
        get throws(AcceleratorError) {
            var data = kvm_clock_data()
            do {
                try kvmGet("KVM_GET_CLOCK", fd.rawValue, CLINUX_KVM_GET_CLOCK, &data)
            } catch {
                throw AcceleratorError("KVM's clock cannot be read: \(error)")
            }
            return data.clock
        }
    }

    public func setClock(_ nanoseconds: UInt64) throws(AcceleratorError) {
        var data = kvm_clock_data()
        data.clock = nanoseconds
        do {
            try kvmSet("KVM_SET_CLOCK", fd.rawValue, CLINUX_KVM_SET_CLOCK, data)
        } catch {
            throw AcceleratorError("KVM's clock cannot be set: \(error)")
        }
    }

    // MARK: Interrupts and notifications

    public func signalMSI(address: UInt64, data: UInt32) {
        interrupts.signal(address: address, data: data)
    }

    public func bindInterrupt(_ event: EventFD, address: UInt64, data: UInt32) -> Bool {
        interrupts.bind(event, address: address, data: data)
    }

    public func unbindInterrupt(_ event: EventFD) { interrupts.unbind(event) }

    public func bindNotify(_ event: EventFD, address: GuestAddress) -> Bool {
        setNotify(event, address, flags: 0)
    }

    public func unbindNotify(_ event: EventFD, address: GuestAddress) {
        _ = setNotify(event, address, flags: UInt32(CLINUX_KVM_IOEVENTFD_DEASSIGN))
    }

    private func setNotify(_ event: EventFD, _ address: GuestAddress, flags: UInt32) -> Bool {
        var request = kvm_ioeventfd()
        request.addr = address.rawValue
        // A length of zero: writes of any size.
        request.len = 0
        request.fd = event.rawValue
        request.flags = flags
        do {
            try kvmSet("KVM_IOEVENTFD", fd.rawValue, CLINUX_KVM_IOEVENTFD, request)
            return true
        } catch {
            return false
        }
    }
}
