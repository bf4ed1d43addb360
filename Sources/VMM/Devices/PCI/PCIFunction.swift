package import Accelerator

/// A function on the PCI bus: its configuration space and what its memory BARs reach. Called on
/// vCPU threads, several at a time; nothing the guest does may trap.
package protocol PCIFunction: AnyObject, Sendable {
    /// Reads 1, 2 or 4 bytes of the configuration space; `offset` is below 4096.
    func readConfig(_ offset: Int, size: Int) -> UInt32
    /// Writes them. The bus looks at `placements` afterwards.
    func writeConfig(_ offset: Int, size: Int, _ value: UInt32) -> MachineEffect

    /// The memory BARs and where the guest wants them.
    var placements: [PCIBARPlacement] { get }
    /// Programs a BAR, as firmware would.
    func setBAR(_ bar: Int, address: UInt64)
    /// The bus has moved a BAR; `nil` if nothing reaches it now. Called under the bus's layout
    /// lock, so it must not access the bus.
    func barMoved(_ bar: Int, to address: UInt64?)

    /// Accesses to a BAR, as for `BusDevice`.
    func readBAR(_ bar: Int, offset: UInt64, size: Int) -> UInt64
    func writeBAR(_ bar: Int, offset: UInt64, size: Int, _ value: UInt64) -> MachineEffect

    /// Puts the configuration space, and what it controls, back to the state after power-on; the
    /// device behind it is for its owner to reset. Called while no vCPU runs.
    func resetConfig()
    /// The slot that it is in has been reset, or its power was cut: function and device are as after
    /// power-on. Called on a vCPU thread that holds no lock.
    func resetAll()
}

/// A function that consists of its configuration space.
package protocol PCIFunctionWithoutBARs: PCIFunction {}

extension PCIFunctionWithoutBARs {
    package var placements: [PCIBARPlacement] { [] }
    package func setBAR(_ bar: Int, address: UInt64) {}
    package func barMoved(_ bar: Int, to address: UInt64?) {}
    package func readBAR(_ bar: Int, offset: UInt64, size: Int) -> UInt64 { allOnes(size) }
    package func writeBAR(
        _ bar: Int, offset: UInt64, size: Int, _ value: UInt64
    ) -> MachineEffect { .none }
}

/// The host bridge, function 00:00.0: a generic PCI Express host bridge without registers of its
/// own (1B36:0008).
package final class PCIHostBridge: PCIFunctionWithoutBARs {
    private let config = LockedConfigSpace(
        PCIConfigSpace(
            .init(
                vendor: 0x1B36, device: 0x0008, revision: 0, classCode: 0x06_0000,
                subsystemVendor: 0x1AF4, subsystem: 0x1100)))

    package init() {}

    package func readConfig(_ offset: Int, size: Int) -> UInt32 { config.read(offset, size: size) }

    package func writeConfig(_ offset: Int, size: Int, _ value: UInt32) -> MachineEffect {
        config.write(offset, size: size, value)
        return .none
    }

    package func resetConfig() { config.reset() }
    package func resetAll() { config.reset() }
}
