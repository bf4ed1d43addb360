/// All ACPI tables of a machine, as one run of bytes for one guest address: a pure function of the
/// configuration.
///
/// The machine is hardware-reduced (ACPI 6.5, section 4.1): no fixed hardware, no legacy interrupt
/// controller, power-off through the sleep control register.
package struct ACPITables: Sendable {
    /// Where the run starts; the root pointer is its first bytes. A multiple of 16.
    package let address: UInt64
    package let bytes: [UInt8]
    /// The tables in it, for tests and tools.
    package let tables: [(table: ACPITable, address: UInt64)]

    /// The root pointer's address (RSDP).
    package var rootPointer: UInt64 { address }

    /// - Parameter address: where the tables will be; a multiple of 16. Between 0xE0000 and
    ///   0xFFFFF even guests that are not told find them.
    package init(_ configuration: ACPIConfiguration, address: UInt64 = 0xE_0000) {
        precondition(address % 16 == 0, "the root pointer is aligned")
        var layout = Layout(start: address)
        layout.reserve(Self.rootPointerSize)
        let dsdt = layout.place(Self.dsdt(configuration))
        let children = [
            layout.place(Self.fadt(configuration, dsdt: dsdt)),
            layout.place(Self.madt(configuration)),
            layout.place(Self.mcfg(configuration)),
        ]
        var pointers: [UInt8] = []
        for child in children { pointers.appendLittleEndian(child) }
        let xsdt = layout.place(ACPITable("XSDT", revision: 1, body: pointers))
        self.address = address
        tables = layout.tables
        bytes = Self.rootPointer(xsdt: xsdt) + layout.bytes.dropFirst(Self.rootPointerSize)
    }

    /// Collects tables, each at the next multiple of 16.
    private struct Layout {
        let start: UInt64
        var bytes: [UInt8] = []
        var tables: [(table: ACPITable, address: UInt64)] = []

        init(start: UInt64) { self.start = start }

        mutating func reserve(_ count: Int) { bytes += [UInt8](repeating: 0, count: count) }

        mutating func place(_ table: ACPITable) -> UInt64 {
            reserve((16 - bytes.count % 16) % 16)
            let address = start + UInt64(bytes.count)
            bytes += table.bytes
            tables.append((table, address))
            return address
        }
    }

    private static let rootPointerSize = 36

    /// The root system description pointer (section 5.2.5.3).
    private static func rootPointer(xsdt: UInt64) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8) + [0] + ACPITable.oemID + [2]
        bytes.appendLittleEndian(UInt32(0))  // no RSDT
        bytes.appendLittleEndian(UInt32(rootPointerSize))
        bytes.appendLittleEndian(xsdt)
        bytes += [0, 0, 0, 0]
        bytes[8] = ACPITable.checksum(bytes[..<20])
        bytes[32] = ACPITable.checksum(bytes[...])
        return bytes
    }

    /// The fixed description table (section 5.2.9).
    private static func fadt(_ configuration: ACPIConfiguration, dsdt: UInt64) -> ACPITable {
        var body = [UInt8](repeating: 0, count: 276 - ACPITable.headerSize)
        func set(_ offset: Int, _ bytes: [UInt8]) {
            for (index, byte) in bytes.enumerated() {
                body[offset - ACPITable.headerSize + index] = byte
            }
        }
        func word<T: FixedWidthInteger & UnsignedInteger>(_ value: T) -> [UInt8] {
            var bytes: [UInt8] = []
            bytes.appendLittleEndian(value)
            return bytes
        }
        func port(_ port: UInt16) -> [UInt8] {
            [0x01, 8, 0, 1] + word(UInt64(port))  // System I/O, 8 bits, byte access.
        }
        set(40, word(UInt32(truncatingIfNeeded: dsdt)))
        // No 8042 and no legacy devices (bits 1 and 0 clear); no VGA, no CMOS clock.
        set(109, word(UInt16(1 << 2 | 1 << 5)))
        let wbinvd: UInt32 = 1 << 0
        let noPowerButton: UInt32 = 1 << 4
        let noSleepButton: UInt32 = 1 << 5
        let resetRegister: UInt32 = 1 << 10
        let hardwareReduced: UInt32 = 1 << 20
        set(112, word(wbinvd | noPowerButton | noSleepButton | resetRegister | hardwareReduced))
        set(116, port(configuration.resetPort))
        set(128, [PCIConfigPorts.resetValue])
        set(131, [5])  // minor revision: ACPI 6.5
        set(140, word(dsdt))
        set(244, port(configuration.sleepPort))
        set(256, port(configuration.sleepPort + 1))
        set(268, Array("APUS".utf8) + [0, 0, 0, 0])  // hypervisor vendor
        return ACPITable("FACP", revision: 6, body: body)
    }

    /// The interrupt controllers (section 5.2.12).
    private static func madt(_ configuration: ACPIConfiguration) -> ACPITable {
        var body: [UInt8] = []
        body.appendLittleEndian(configuration.localAPICAddress)
        body.appendLittleEndian(UInt32(0))  // no PIC
        for cpu in 0..<configuration.cpuCount {
            let id = UInt32(truncatingIfNeeded: cpu)
            if cpu < 255 {
                body += [0, 8, UInt8(cpu), UInt8(cpu), 1, 0, 0, 0]
            } else {
                body += [9, 16, 0, 0]
                for word in [id, 1, id] { body.appendLittleEndian(word) }
            }
        }
        body += [1, 12, 0, 0]  // I/O APIC number 0, whose pins are interrupts 0-23.
        body.appendLittleEndian(configuration.ioapicAddress)
        body.appendLittleEndian(UInt32(0))
        return ACPITable("APIC", revision: 5, body: body)
    }

    /// The PCI Express configuration space (PCI Firmware 3.3, section 4.1.2).
    private static func mcfg(_ configuration: ACPIConfiguration) -> ACPITable {
        var body = [UInt8](repeating: 0, count: 8)
        body.appendLittleEndian(configuration.ecamAddress)
        body += [0, 0, 0, configuration.lastPCIBus, 0, 0, 0, 0]
        return ACPITable("MCFG", revision: 1, body: body)
    }
}
