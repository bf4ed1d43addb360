package import Accelerator
package import Core
internal import Synchronization

/// The ports and the memory-mapped devices of a machine, as its vCPUs see them.
///
/// It exists before the virtual machine does (which wants to know its surface); devices are
/// attached afterwards, before the first vCPU runs or while they run.
package final class MachineBuses: ExitSurface {
    package let ports = Bus()
    package let memory = Bus()
    private let ioapic = AtomicLazyReference<IOAPIC>()

    package init() {}

    /// Makes `ioapic` hear about the ends of interrupts. The first one stays.
    package func connect(_ ioapic: IOAPIC) { _ = self.ioapic.storeIfNil(ioapic) }

    package func readPort(_ port: UInt16, size: Int) -> UInt32 {
        UInt32(truncatingIfNeeded: ports.read(UInt64(port), size: size))
    }

    package func writePort(_ port: UInt16, size: Int, _ value: UInt32) -> MachineEffect {
        ports.write(UInt64(port), size: size, UInt64(value))
    }

    package func readMMIO(_ address: GuestAddress, size: Int) -> UInt64 {
        memory.read(address.rawValue, size: size)
    }

    package func writeMMIO(
        _ address: GuestAddress, size: Int, _ value: UInt64
    ) -> MachineEffect {
        memory.write(address.rawValue, size: size, value)
    }

    package func endOfInterrupt(vector: UInt8) { ioapic.load()?.endOfInterrupt(vector: vector) }
}
