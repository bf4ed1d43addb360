/// The 256 bytes of a PCI function's configuration space (PCI Local Bus 3.0, section 6.1): their
/// values, which bits the guest may write, and the memory BARs among them.
package struct PCIConfigSpace: Sendable {
    package static let size = 256

    /// The header's registers.
    enum Register {
        static let vendor = 0x00
        static let device = 0x02
        static let command = 0x04
        static let status = 0x06
        static let revision = 0x08
        static let classCode = 0x09
        static let cacheLineSize = 0x0C
        static let headerType = 0x0E
        static let bar0 = 0x10
        static let subsystemVendor = 0x2C
        static let subsystem = 0x2E
        static let capabilities = 0x34
        static let interruptLine = 0x3C
        static let firstCapability = 0x40
    }

    static let memoryEnable: UInt16 = 1 << 1
    static let busMasterEnable: UInt16 = 1 << 2

    /// Who a function says it is.
    package struct Identity: Sendable {
        package var vendor: UInt16
        package var device: UInt16
        package var revision: UInt8
        /// Class, subclass and programming interface, for example 0x060000 for a host bridge.
        package var classCode: UInt32
        package var subsystemVendor: UInt16
        package var subsystem: UInt16

        package init(
            vendor: UInt16, device: UInt16, revision: UInt8, classCode: UInt32,
            subsystemVendor: UInt16, subsystem: UInt16
        ) {
            self.vendor = vendor
            self.device = device
            self.revision = revision
            self.classCode = classCode
            self.subsystemVendor = subsystemVendor
            self.subsystem = subsystem
        }
    }

    private struct BAR {
        let index: Int
        let size: UInt64
        let is64Bit: Bool
        var register: Int { Register.bar0 + 4 * index }
    }

    private var bytes = [UInt8](repeating: 0, count: size)
    private var writable = [UInt8](repeating: 0, count: size)
    private var bars: [BAR] = []
    private var lastCapability: Int?
    private var nextCapability = Register.firstCapability

    package init(_ identity: Identity) {
        self.init(common: identity)
        set(Register.subsystemVendor, identity.subsystemVendor)
        set(Register.subsystem, identity.subsystem)
    }

    /// What all types of header begin with.
    init(common identity: Identity) {
        set(Register.vendor, identity.vendor)
        set(Register.device, identity.device)
        bytes[Register.revision] = identity.revision
        bytes[Register.classCode] = UInt8(truncatingIfNeeded: identity.classCode)
        set(Register.classCode + 1, UInt16(truncatingIfNeeded: identity.classCode >> 8))
        // Memory space, bus master, parity and SERR response, INTx disable; no I/O space.
        setWritable(Register.command, UInt16(0x0546))
        writable[Register.cacheLineSize] = 0xFF
        writable[Register.interruptLine] = 0xFF
    }

    // MARK: Setting up

    /// Adds a memory BAR of `size` bytes, a power of two of at least 16. A 64-bit one takes the
    /// register after it as well.
    /// - Parameter isPrefetchable: it is memory, which may be read without a consequence.
    mutating func addMemoryBAR(
        _ index: Int, size: UInt64, is64Bit: Bool, isPrefetchable: Bool = false
    ) {
        precondition(size >= 16 && size & (size - 1) == 0, "a BAR's size is a power of two")
        let bar = BAR(index: index, size: size, is64Bit: is64Bit)
        bars.append(bar)
        let mask = ~(size - 1)
        bytes[bar.register] = (is64Bit ? 0b100 : 0) | (isPrefetchable ? 0b1000 : 0)
        setWritable(bar.register, UInt32(truncatingIfNeeded: mask) & ~0xF)
        if is64Bit { setWritable(bar.register + 4, UInt32(truncatingIfNeeded: mask >> 32)) }
    }

    /// Appends a capability. `body` follows its two header bytes; `mask` has the writable bits
    /// and may be shorter.
    /// - Returns: the capability's offset.
    mutating func addCapability(id: UInt8, body: [UInt8], mask: [UInt8] = []) -> Int {
        let offset = nextCapability
        precondition(offset + 2 + body.count <= Self.size, "capabilities fit the space")
        bytes[lastCapability.map { $0 + 1 } ?? Register.capabilities] = UInt8(offset)
        bytes[Register.status] |= 0x10
        bytes[offset] = id
        for (index, byte) in body.enumerated() { bytes[offset + 2 + index] = byte }
        for (index, bits) in mask.prefix(body.count).enumerated() {
            writable[offset + 2 + index] = bits
        }
        lastCapability = offset
        nextCapability = (offset + 2 + body.count + 3) & ~3
        return offset
    }

    // MARK: Accesses

    /// The bytes from `offset`; zero beyond the space.
    package func read(_ offset: Int, size: Int) -> UInt32 {
        var value: UInt32 = 0
        for index in 0..<min(size, 4) where bytes.indices.contains(offset &+ index) {
            value |= UInt32(bytes[offset + index]) << (8 * UInt32(index))
        }
        return value
    }

    /// Writes what may be written.
    package mutating func write(_ offset: Int, size: Int, _ value: UInt32) {
        for index in 0..<min(size, 4) where bytes.indices.contains(offset &+ index) {
            let byte = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index)))
            let mask = writable[offset + index]
            bytes[offset + index] = (bytes[offset + index] & ~mask) | (byte & mask)
        }
    }

    /// Sets bytes whether or not the guest may write them.
    mutating func overwrite(_ offset: Int, size: Int, _ value: UInt32) {
        for index in 0..<min(size, 4) where bytes.indices.contains(offset &+ index) {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index)))
        }
    }

    /// The 16 bits at `offset`.
    func word(_ offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: read(offset, size: 2)) }

    var command: UInt16 { word(Register.command) }

    mutating func setCommand(_ value: UInt16) {
        overwrite(Register.command, size: 2, UInt32(value))
    }

    /// The memory BARs and where the guest has put them. There is no address while the guest has
    /// switched memory decoding off.
    package var placements: [PCIBARPlacement] {
        bars.map { bar in
            PCIBARPlacement(
                bar: bar.index, size: bar.size, is64Bit: bar.is64Bit,
                address: command & Self.memoryEnable != 0 ? address(bar) : nil)
        }
    }

    private func address(_ bar: BAR) -> UInt64 {
        var address = UInt64(read(bar.register, size: 4) & ~0xF)
        if bar.is64Bit { address |= UInt64(read(bar.register + 4, size: 4)) << 32 }
        return address
    }

    /// Programs a BAR, as firmware would.
    mutating func setBAR(_ index: Int, address: UInt64) {
        guard let bar = bars.first(where: { $0.index == index }) else { return }
        write(bar.register, size: 4, UInt32(truncatingIfNeeded: address))
        if bar.is64Bit {
            write(bar.register + 4, size: 4, UInt32(truncatingIfNeeded: address >> 32))
        }
    }

    private mutating func set(_ offset: Int, _ value: UInt16) {
        overwrite(offset, size: 2, UInt32(value))
    }

    mutating func setWritable(_ offset: Int, bits: UInt8) { writable[offset] = bits }

    mutating func setWritable(_ offset: Int, _ mask: UInt16) {
        writable[offset] = UInt8(truncatingIfNeeded: mask)
        writable[offset + 1] = UInt8(truncatingIfNeeded: mask >> 8)
    }

    mutating func setWritable(_ offset: Int, _ mask: UInt32) {
        setWritable(offset, UInt16(truncatingIfNeeded: mask))
        setWritable(offset + 2, UInt16(truncatingIfNeeded: mask >> 16))
    }
}

/// A memory BAR and where it is.
package struct PCIBARPlacement: Equatable, Sendable {
    package var bar: Int
    package var size: UInt64
    package var is64Bit: Bool
    /// `nil` while it cannot be reached.
    package var address: UInt64?
}
