public import Accelerator
internal import Core
internal import Synchronization

/// One virtual CPU of Apus's own making.
// SAFETY: `block` and everything else mutable belongs to the thread that runs the CPU; the atomics
// and the APIC are for others.
public final class TCGVCPU: VirtualCPU, @unchecked Sendable {
    let core: MachineCore
    let index: Int
    let block: VCPUBlock
    let apic: LocalAPIC
    private let isKicked = Atomic<Bool>(false)

    var cpu: CPU { block.cpu }

    init(core: MachineCore, index: Int) throws(SystemError) {
        self.core = core
        self.index = index
        block = try VCPUBlock(ram: core.ram)
        apic = LocalAPIC(id: UInt32(index), block: block)
        core.add(apic)
        // SAFETY: unowned; this object outlives its block's use.
        unsafe block.state.pointee.owner = UnsafeRawPointer(
            Unmanaged.passUnretained(self).toOpaque())
    }

    public func setInitialState(_ state: InitialCPUState) {}

    public func run() -> VCPUExit {
        while true {
            if isKicked.exchange(false, ordering: .acquiring) { return .kicked }
            cpu.execute()
        }
    }

    public func kick() {
        isKicked.store(true, ordering: .releasing)
        block.ring()
    }

    public var retiredInstructions: UInt64 { unsafe block.state.pointee.retired }
}
