/// The registers that a bridge has in its header (PCI-to-PCI Bridge Architecture 1.2, section 3.2),
/// and what they say of the bus behind it.
struct BridgeRegisters {
    enum Register {
        static let primaryBus = 0x18
        static let secondaryBus = 0x19
        static let subordinateBus = 0x1A
        static let memoryBase = 0x20
        static let memoryLimit = 0x22
        static let prefetchableBase = 0x24
        static let prefetchableLimit = 0x26
        static let prefetchableUpperBase = 0x28
        static let prefetchableUpperLimit = 0x2C
        static let control = 0x3E
    }

    static let headerType: UInt8 = 1
    /// A bridge's windows begin and end at multiples of this.
    static let granularity: UInt64 = 1 << 20
    /// Bridge control: the devices behind are reset while it is set.
    static let secondaryReset: UInt16 = 1 << 6

    /// Makes `space` one of a bridge without I/O addresses behind it.
    static func prepare(_ space: inout PCIConfigSpace) {
        space.overwrite(PCIConfigSpace.Register.headerType, size: 1, UInt32(headerType))
        for register in [Register.primaryBus, Register.secondaryBus, Register.subordinateBus] {
            space.setWritable(register, bits: 0xFF)
        }
        for register in [Register.memoryBase, Register.memoryLimit] {
            space.setWritable(register, UInt16(0xFFF0))
        }
        for register in [Register.prefetchableBase, Register.prefetchableLimit] {
            // Prefetchable memory has addresses of 64 bits.
            space.overwrite(register, size: 2, 1)
            space.setWritable(register, UInt16(0xFFF0))
        }
        space.setWritable(Register.prefetchableUpperBase, UInt32.max)
        space.setWritable(Register.prefetchableUpperLimit, UInt32.max)
        // Parity and SERR forwarding, and the reset.
        space.setWritable(Register.control, secondaryReset | 0b11)
        close(&space)
    }

    /// Lets nothing through: every base is above its limit.
    private static func close(_ space: inout PCIConfigSpace) {
        space.overwrite(Register.memoryBase, size: 2, 0xFFF0)
        space.overwrite(Register.memoryLimit, size: 2, 0)
        space.overwrite(Register.prefetchableBase, size: 2, 0xFFF1)
        space.overwrite(Register.prefetchableLimit, size: 2, 1)
    }

    /// Programs the bridge, as firmware would.
    /// - Parameter window: below 4 GiB, on multiples of `granularity`.
    static func program(_ space: inout PCIConfigSpace, bus: UInt8, window: PCIWindow) {
        space.overwrite(Register.secondaryBus, size: 1, UInt32(bus))
        space.overwrite(Register.subordinateBus, size: 1, UInt32(bus))
        let last = window.start &+ window.size &- 1
        space.overwrite(
            Register.memoryBase, size: 2, UInt32(truncatingIfNeeded: window.start >> 16) & 0xFFF0)
        space.overwrite(
            Register.memoryLimit, size: 2, UInt32(truncatingIfNeeded: last >> 16) & 0xFFF0)
        space.setCommand(
            space.command | PCIConfigSpace.memoryEnable | PCIConfigSpace.busMasterEnable)
    }

    /// Whether the bridge passes on accesses to all of these addresses.
    static func forwards(_ space: PCIConfigSpace, _ address: UInt64, size: UInt64) -> Bool {
        guard space.command & PCIConfigSpace.memoryEnable != 0, size > 0,
            address <= UInt64.max - (size - 1)
        else { return false }
        let last = address + (size - 1)
        return windows(space).contains { $0.first <= address && last <= $0.last }
    }

    private static func windows(
        _ space: PCIConfigSpace
    ) -> [(first: UInt64, last: UInt64)] {
        func part(_ register: Int, upper: Int?) -> UInt64 {
            let low = UInt64(space.read(register, size: 2) & 0xFFF0) << 16
            return low | (upper.map { UInt64(space.read($0, size: 4)) << 32 } ?? 0)
        }
        let lastBits = granularity - 1
        return [
            (
                part(Register.memoryBase, upper: nil),
                part(Register.memoryLimit, upper: nil) | lastBits
            ),
            (
                part(Register.prefetchableBase, upper: Register.prefetchableUpperBase),
                part(Register.prefetchableLimit, upper: Register.prefetchableUpperLimit) | lastBits
            ),
        ]
    }
}
