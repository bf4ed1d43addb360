/// What the ACPI tables say about a machine.
package struct ACPIConfiguration: Sendable {
    /// Virtual CPUs; CPU n has the APIC id n.
    package var cpuCount: Int
    package var localAPICAddress: UInt32 = 0xFEE0_0000
    package var ioapicAddress: UInt32 = 0xFEC0_0000

    /// The configuration space of PCI buses 0 to `lastPCIBus`.
    package var ecamAddress: UInt64 = 0xE000_0000
    package var lastPCIBus: UInt8 = 255
    /// Where BARs may be: one window below 4 GiB, and perhaps one above.
    package var pciWindow32 = PCIWindow(start: 0xC000_0000, size: 0x2000_0000)
    package var pciWindow64: PCIWindow?
    /// Cards come and go behind the root ports, which the system is to take care of itself.
    package var hasHotPlug = false

    /// The sleep control register's port; the sleep status register is the next one.
    package var sleepPort: UInt16 = 0x600
    /// The reset register's port.
    package var resetPort: UInt16 = 0xCF9
    /// COM1; `nil` if the machine has none.
    package var serial: Serial? = Serial()
    /// The panic notifier's port; `nil` if the machine has none.
    package var panicPort: UInt16? = 0x505

    /// A 16550 and its interrupt.
    package struct Serial: Sendable {
        package var port: UInt16 = 0x3F8
        package var gsi: UInt32 = 4

        package init(port: UInt16 = 0x3F8, gsi: UInt32 = 4) {
            self.port = port
            self.gsi = gsi
        }
    }

    package init(cpuCount: Int) { self.cpuCount = cpuCount }
}
