internal import Core

extension VirtioPCI {
    /// Capability types (VIRTIO 1.3, section 4.1.4).
    private enum CapabilityType: UInt8 {
        case common = 1
        case notify = 2
        case isr = 3
        case device = 4
        case window = 5
        case sharedMemory = 8
    }

    private static let vendorCapability: UInt8 = 0x09

    /// The configuration space of a virtio device, and where in it the guest controls MSI-X and
    /// the window to the BAR.
    static func makeConfigSpace(
        _ id: VirtioDeviceID, msix: MSIXTable, isExpress: Bool, shared: DeviceWindow?
    ) -> (space: PCIConfigSpace, msixOffset: Int, windowOffset: Int) {
        let number = UInt16(0x40) &+ id.rawValue
        var space = PCIConfigSpace(
            .init(
                vendor: 0x1AF4, device: 0x1000 &+ number, revision: 1, classCode: classCode(id),
                subsystemVendor: 0x1AF4, subsystem: number))
        space.addMemoryBAR(Layout.bar, size: Layout.size, is64Bit: true)
        add(.common, page: 0, length: 64, to: &space)
        add(.isr, page: 1, length: 1, to: &space)
        add(.device, page: 2, length: UInt32(Layout.page), to: &space)
        add(.notify, page: 3, length: UInt32(Layout.page), to: &space)
        let window = add(.window, page: 0, length: 0, to: &space)
        let msixBytes = msix.capability(
            tableBAR: Layout.bar, tableOffset: 4 * UInt32(Layout.page), pendingBAR: Layout.bar,
            pendingOffset: 5 * UInt32(Layout.page))
        let msixOffset = space.addCapability(
            id: MSIXTable.capabilityID, body: msixBytes.body, mask: msixBytes.mask)
        if let shared {
            space.addMemoryBAR(
                Layout.windowBAR, size: shared.memory.size, is64Bit: true, isPrefetchable: true)
            // As many as the space has room for; no device has more than one.
            for region in shared.regions.prefix(2) { add(region, to: &space) }
        }
        if isExpress {
            _ = space.addCapability(id: ExpressCapability.id, body: ExpressCapability.endpoint)
        }
        return (space, msixOffset, window)
    }

    /// Adds a `virtio_pci_cap`.
    @discardableResult
    private static func add(
        _ type: CapabilityType, page: UInt32, length: UInt32, to space: inout PCIConfigSpace
    ) -> Int {
        let isLong = type == .notify || type == .window
        var body: [UInt8] = [isLong ? 20 : 16, type.rawValue, UInt8(Layout.bar), 0, 0, 0]
        body.appendLittleEndian(page * UInt32(Layout.page))
        body.appendLittleEndian(length)
        var mask: [UInt8] = []
        if type == .notify { body.appendLittleEndian(UInt32(Layout.notifyMultiplier)) }
        if type == .window {
            body.appendLittleEndian(UInt32(0))
            // The BAR, offset, length and data are the guest's.
            mask = [0, 0, 0xFF, 0, 0, 0] + [UInt8](repeating: 0xFF, count: 12)
        }
        return space.addCapability(id: vendorCapability, body: body, mask: mask)
    }

    /// Adds a `virtio_pci_cap64` for a region of shared memory (section 4.1.4.7).
    private static func add(_ region: DeviceWindow.Region, to space: inout PCIConfigSpace) {
        var body: [UInt8] = [
            24, CapabilityType.sharedMemory.rawValue, UInt8(Layout.windowBAR), region.id, 0, 0,
        ]
        body.appendLittleEndian(UInt32(truncatingIfNeeded: region.offset))
        body.appendLittleEndian(UInt32(truncatingIfNeeded: region.size))
        body.appendLittleEndian(UInt32(truncatingIfNeeded: region.offset >> 32))
        body.appendLittleEndian(UInt32(truncatingIfNeeded: region.size >> 32))
        _ = space.addCapability(id: vendorCapability, body: body)
    }

    /// The PCI class that fits a device type.
    private static func classCode(_ id: VirtioDeviceID) -> UInt32 {
        switch id {
        case .net: 0x02_0000  // Ethernet controller
        case .block: 0x01_8000  // Other mass storage
        case .console: 0x07_8000  // Other communication
        case .fs: 0x01_8000
        default: 0xFF_0000  // Unassigned
        }
    }
}
