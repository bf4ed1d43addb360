internal import Accelerator

/// A capability of one message-signalled interrupt (PCI Local Bus 3.0, section 6.8.1).
enum MSIRegisters {
    static let capabilityID: UInt8 = 0x05
    private static let enable: UInt32 = 1

    /// The bytes after its header, with addresses of 64 bits, and which the guest may write.
    static let body: [UInt8] = [0x80, 0] + [UInt8](repeating: 0, count: 12)
    static let mask: [UInt8] = [0x01, 0, 0xFC] + [UInt8](repeating: 0xFF, count: 9)

    /// The message that it sends at present; `nil` while it is off.
    static func message(_ space: PCIConfigSpace, at offset: Int) -> MSIMessage? {
        guard space.read(offset + 2, size: 2) & enable != 0 else { return nil }
        let address =
            UInt64(space.read(offset + 4, size: 4)) | UInt64(space.read(offset + 8, size: 4)) << 32
        return MSIMessage(address: address, data: space.read(offset + 12, size: 2))
    }
}
