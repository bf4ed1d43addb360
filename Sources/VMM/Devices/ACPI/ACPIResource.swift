/// A resource descriptor (ACPI 6.5, section 6.4).
package struct ACPIResource: Sendable {
    let bytes: [UInt8]

    /// Ports that are decoded with 16 bits.
    package static func ports(_ start: UInt16, count: UInt8) -> ACPIResource {
        var bytes: [UInt8] = [0x47, 0x01]
        bytes.appendLittleEndian(start)
        bytes.appendLittleEndian(start)
        bytes += [0x01, count]
        return ACPIResource(bytes: bytes)
    }

    /// An edge-triggered, active-high interrupt that the device consumes alone.
    package static func edgeInterrupt(_ gsi: UInt32) -> ACPIResource {
        var bytes: [UInt8] = [0x89]
        bytes.appendLittleEndian(UInt16(6))
        bytes += [0x03, 1]  // Consumer, edge, active high, exclusive; one interrupt.
        bytes.appendLittleEndian(gsi)
        return ACPIResource(bytes: bytes)
    }

    /// A fixed range of memory, which can be written.
    package static func memory32(start: UInt32, size: UInt32) -> ACPIResource {
        var bytes: [UInt8] = [0x86]
        bytes.appendLittleEndian(UInt16(9))
        bytes.append(1)
        bytes.appendLittleEndian(start)
        bytes.appendLittleEndian(size)
        return ACPIResource(bytes: bytes)
    }

    /// The buses behind a host bridge.
    package static func busNumbers(first: UInt16, last: UInt16) -> ACPIResource {
        var bytes: [UInt8] = [0x88]
        bytes.appendLittleEndian(UInt16(13))
        bytes += [2, fixedRange, 0]
        for word in [0, first, last, 0, last - first + 1] { bytes.appendLittleEndian(word) }
        return ACPIResource(bytes: bytes)
    }

    /// Memory that a host bridge passes on, below 4 GiB.
    package static func memoryWindow32(start: UInt32, size: UInt32) -> ACPIResource {
        var bytes: [UInt8] = [0x87]
        bytes.appendLittleEndian(UInt16(23))
        bytes += [0, fixedRange, writable]
        for word in [0, start, start + (size - 1), 0, size] { bytes.appendLittleEndian(word) }
        return ACPIResource(bytes: bytes)
    }

    /// Memory that a host bridge passes on, anywhere.
    package static func memoryWindow64(start: UInt64, size: UInt64) -> ACPIResource {
        var bytes: [UInt8] = [0x8A]
        bytes.appendLittleEndian(UInt16(43))
        bytes += [0, fixedRange, writable]
        for word in [0, start, start + (size - 1), 0, size] { bytes.appendLittleEndian(word) }
        return ACPIResource(bytes: bytes)
    }

    /// General flags: the range is produced, and both its ends are fixed.
    private static let fixedRange: UInt8 = 0x0C
    /// Memory flags: read and write, not cacheable.
    private static let writable: UInt8 = 1
}
