package import Core

/// Where everything is in the guest-physical address space of the machine `microvm`: a pure
/// function of the size of its memory, the same on every host and in every version.
package struct MemoryMap: Equatable, Sendable {
    /// A run of addresses.
    package struct Range: Equatable, Sendable {
        package let start: UInt64
        package let size: UInt64

        package var end: UInt64 { start + size }
        package var address: GuestAddress { GuestAddress(start) }

        package init(start: UInt64, size: UInt64) {
            self.start = start
            self.size = size
        }
    }

    /// A range and what the guest is told about it.
    package struct Entry: Equatable, Sendable {
        /// The numbers of the e820 table and of PVH's memory map (ACPI 6.5, table 15.4).
        package enum Kind: UInt32, Sendable {
            case ram = 1
            case reserved = 2
        }

        package let range: Range
        package let kind: Kind
    }

    /// RAM that a machine can have: enough for a small kernel, and what 46 address bits hold with
    /// room for devices.
    package static let sizes: ClosedRange<UInt64> = (16 << 20)...(8 << 40)

    /// RAM up to 3 GiB; starts at zero.
    package let lowRAM: Range
    /// RAM from 4 GiB, if there is more.
    package let highRAM: Range?
    /// Where 64-bit PCI memory is.
    package let pci64: Range

    /// ACPI tables; inside `lowRAM`, but not offered as RAM.
    package static let acpi = Range(start: 0xe0000, size: 0x20000)
    package static let pci32 = Range(start: 0xc000_0000, size: 0x2000_0000)
    package static let ecam = Range(start: 0xe000_0000, size: 0x1000_0000)
    package static let ioapic = Range(start: 0xfec0_0000, size: 0x1000)
    package static let localAPIC = Range(start: 0xfee0_0000, size: 0x1000)

    static let lowRAMLimit: UInt64 = 3 << 30
    static let highRAMStart: UInt64 = 4 << 30
    static let pci64Size: UInt64 = 64 << 30
    /// The end of conventional memory: what lies between here and 1 MiB is not offered as RAM.
    static let conventionalEnd: UInt64 = 0x9fc00
    static let oneMiB: UInt64 = 1 << 20

    /// - Parameter memorySize: in `sizes`, a multiple of the page size.
    package init(memorySize: UInt64) {
        let low = min(memorySize, Self.lowRAMLimit)
        lowRAM = Range(start: 0, size: low)
        highRAM =
            memorySize > low ? Range(start: Self.highRAMStart, size: memorySize - low) : nil
        // On a multiple of its size, as a power of two that PCI windows like.
        let ramEnd = highRAM?.end ?? Self.highRAMStart
        let start = (ramEnd + Self.pci64Size - 1) / Self.pci64Size * Self.pci64Size
        pci64 = Range(start: start, size: Self.pci64Size)
    }

    /// What the guest is told, sorted by address.
    package var entries: [Entry] {
        var entries = [
            Entry(range: Range(start: 0, size: Self.conventionalEnd), kind: .ram),
            Entry(range: Self.acpi, kind: .reserved),
            Entry(
                range: Range(start: Self.oneMiB, size: lowRAM.size - Self.oneMiB), kind: .ram),
            // Linux uses the ECAM only if it is reserved here.
            Entry(range: Self.ecam, kind: .reserved),
        ]
        if let highRAM { entries.append(Entry(range: highRAM, kind: .ram)) }
        return entries
    }
}
