extension ACPITables {
    /// The devices that cannot be found otherwise (ACPI 6.5, section 5.2.11.1).
    static func dsdt(_ configuration: ACPIConfiguration) -> ACPITable {
        var devices = [hostBridge(configuration), motherboard(configuration)]
        if let serial = configuration.serial { devices.append(serialPort(serial)) }
        if let port = configuration.panicPort { devices.append(panicNotifier(port)) }
        let softOff = AML.integer(UInt64(SleepRegisters.softOffType))
        let zero = AML.integer(0)
        let blocks: [AML] = [
            .scope("\\_SB_", devices), .name("\\_S5_", .package([softOff, zero, zero, zero])),
        ]
        return ACPITable("DSDT", revision: 2, body: blocks.flatMap(\.bytes))
    }

    /// The root of PCI Express segment 0, bus 0.
    private static func hostBridge(_ configuration: ACPIConfiguration) -> AML {
        let window = configuration.pciWindow32
        var resources: [ACPIResource] = [
            .busNumbers(first: 0, last: UInt16(configuration.lastPCIBus)),
            .ports(0xCF8, count: 8),
            .memoryWindow32(
                start: UInt32(truncatingIfNeeded: window.start),
                size: UInt32(truncatingIfNeeded: window.size)),
        ]
        if let window = configuration.pciWindow64 {
            resources.append(.memoryWindow64(start: window.start, size: window.size))
        }
        return .device(
            "PCI0",
            [
                .name("_HID", .eisaID("PNP0A08")), .name("_CID", .eisaID("PNP0A03")),
                .name("_SEG", .integer(0)), .name("_BBN", .integer(0)), .name("_UID", .integer(0)),
                .name("_CRS", .resources(resources)),
            ] + (configuration.hasHotPlug ? [hotPlugControl] : []))
    }

    /// Gives the system control of native hot-plug (PCI Firmware 3.3, section 4.5.1): of what it
    /// asks for in the third doubleword it gets bits 0, native hot-plug, and 4, the capability that
    /// this is done with. The first doubleword says what is wrong: bit 2, not this kind of bridge;
    /// bit 4, not all that was asked for.
    private static var hotPlugControl: AML {
        let bridge: [UInt8] = [
            0x5B, 0x4D, 0xDB, 0x33, 0xF7, 0x1F, 0x1C, 0x40,
            0x96, 0x57, 0x74, 0x41, 0xC0, 0x3D, 0xD7, 0x66,
        ]
        let buffer = AML.argument(3)
        let (status, control, asked) = (AML.reference("STAT"), AML.reference("CTRL"), AML.local(0))
        return .method(
            "_OSC", arguments: 4,
            [
                .doubleword("STAT", of: buffer, at: 0),
                .ifEqual(
                    .argument(0), .buffer(bridge),
                    [
                        .doubleword("CTRL", of: buffer, at: 8),
                        .store(control, in: asked),
                        .and(control, .integer(0x11), into: control),
                        .ifEqual(control, asked, [.return(buffer)]),
                        .or(status, .integer(0x10), into: status),
                        .return(buffer),
                    ]),
                .or(status, .integer(0x04), into: status),
                .return(buffer),
            ])
    }

    /// Addresses that are taken: systems believe the MCFG only if something claims them.
    private static func motherboard(_ configuration: ACPIConfiguration) -> AML {
        let size = PCIECAM.size(lastBus: configuration.lastPCIBus)
        return .device(
            "MBRD",
            [
                .name("_HID", .eisaID("PNP0C02")), .name("_UID", .integer(0)),
                .name(
                    "_CRS",
                    .resources([
                        .memory32(
                            start: UInt32(truncatingIfNeeded: configuration.ecamAddress),
                            size: UInt32(truncatingIfNeeded: size)),
                        .ports(configuration.sleepPort, count: UInt8(SleepRegisters.size)),
                    ])),
            ])
    }

    private static func serialPort(_ serial: ACPIConfiguration.Serial) -> AML {
        .device(
            "COM1",
            [
                .name("_HID", .eisaID("PNP0501")), .name("_UID", .integer(0)),
                .name(
                    "_CRS",
                    .resources([
                        .ports(serial.port, count: 8), .edgeInterrupt(serial.gsi),
                    ])),
            ])
    }

    /// QEMU's specification "PVPANIC DEVICE".
    private static func panicNotifier(_ port: UInt16) -> AML {
        .device(
            "PEVT",
            [
                .name("_HID", .string("QEMU0001")), .name("_STA", .integer(0x0F)),
                .name("_CRS", .resources([.ports(port, count: 1)])),
            ])
    }
}
