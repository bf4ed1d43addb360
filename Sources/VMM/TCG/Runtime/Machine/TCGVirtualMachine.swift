public import Accelerator
public import Core
internal import Synchronization

/// The processors' side of a machine with Apus's own CPUs.
public final class TCGVirtualMachine: VirtualMachine {
    let core: MachineCore
    private let cpus = Mutex<[TCGVCPU]>([])

    public init(
        memory: GuestMemory, surface: any ExitSurface, options: TCGOptions = TCGOptions(),
        files: TCGFiles = TCGFiles()
    ) {
        core = MachineCore(options: options, memory: memory, surface: surface, files: files)
    }

    public func makeVCPU(index: Int) throws(AcceleratorError) -> any VirtualCPU {
        try makeCPU(index: index)
    }

    func makeCPU(index: Int) throws(AcceleratorError) -> TCGVCPU {
        guard index < CodePageMap.maximumCPUs else {
            throw AcceleratorError(
                "cannot make CPU \(index): a machine has at most \(CodePageMap.maximumCPUs)")
        }
        do {
            let cpu = try TCGVCPU(core: core, index: index)
            cpus.withLock { $0.append(cpu) }
            return cpu
        } catch {
            throw AcceleratorError("cannot allocate the state of CPU \(index): \(error)")
        }
    }

    public func signalMSI(address: UInt64, data: UInt32) {
        core.signalMSI(address: address, data: data)
    }

    public func bindInterrupt(_ event: EventFD, address: UInt64, data: UInt32) -> Bool { false }
    public func unbindInterrupt(_ event: EventFD) {}
    public func bindNotify(_ event: EventFD, address: GuestAddress) -> Bool { false }
    public func unbindNotify(_ event: EventFD, address: GuestAddress) {}

    public func place(_ window: SharedWindow, at address: GuestAddress?) -> Bool {
        guard core.windows.place(window, at: address) else { return false }
        for apic in core.allAPICs {
            apic.memoryHasMoved.store(true, ordering: .releasing)
            apic.block.ring()
        }
        return true
    }

    public func memoryChangedOutside() {
        for apic in core.allAPICs {
            apic.codeMayHaveChanged.store(true, ordering: .releasing)
            apic.block.ring()
        }
    }
}
