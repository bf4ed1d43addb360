/// The PCI Express capability (PCI Express 6.0, section 7.5.3) of a card, and of a root port with a
/// slot in which cards can be changed: registers, and what their bits mean.
enum ExpressCapability {
    static let id: UInt8 = 0x10
    private static let version: UInt16 = 2
    /// Device capabilities: errors are reported by role.
    private static let device: UInt32 = 1 << 15
    /// Link capabilities and status: 2.5 GT/s, one lane.
    private static let link: UInt16 = 1 | 1 << 4

    /// Offsets from the capability's start.
    enum Register {
        static let linkControl = 0x10
        static let linkStatus = 0x12
        static let slotControl = 0x18
        static let slotStatus = 0x1A
    }

    /// Slot status. What has happened is noted until the guest writes a one to it.
    enum Status {
        static let attentionButton: UInt16 = 1 << 0
        static let presenceChanged: UInt16 = 1 << 3
        static let isPresent: UInt16 = 1 << 6
        static let linkChanged: UInt16 = 1 << 8
        /// The bits that the guest clears.
        static let events: UInt16 = 0x011F
    }

    enum Control {
        static let interruptEnable: UInt16 = 1 << 5
        static let indicatorOn: UInt16 = 1 << 8
        static let indicatorOff: UInt16 = 3 << 8
        static let powerOff: UInt16 = 1 << 10
        static let linkChangeEnable: UInt16 = 1 << 12
        /// Both indicators, power, and what may interrupt.
        static let writable: UInt16 = 0x17FF
        /// The events that a guest can be interrupted for have the same places as in the status.
        static let sameAsStatus: UInt16 = 0x001F
    }

    /// Link control.
    static let linkDisable: UInt16 = 1 << 4
    /// Link status.
    static let linkActive: UInt16 = 1 << 13

    /// A card's capability after its header; there is nothing that a guest must write.
    static let endpoint: [UInt8] = {
        var body: [UInt8] = []
        body.appendLittleEndian(version)
        body.appendLittleEndian(device)
        body.appendLittleEndian(UInt32(0))
        body.appendLittleEndian(UInt32(link))
        body.appendLittleEndian(UInt16(0))
        body.appendLittleEndian(link)
        return body + [UInt8](repeating: 0, count: 40)
    }()

    /// A port's capability after its header, and which bits the guest may write.
    /// - Parameter number: the slot's, 1-255, by which people know it.
    static func port(slot number: UInt8) -> (body: [UInt8], mask: [UInt8]) {
        let type: UInt16 = 4 << 4 | 1 << 8  // a root port, with a slot
        // Reports whether the link is active.
        let linkAbilities = UInt32(link) | 1 << 20 | UInt32(number) << 24
        // Attention button, power controller, both indicators, hot-plug, no "command completed".
        let slot: UInt32 = 0b101_1011 | 1 << 18 | UInt32(number) << 19
        var body: [UInt8] = []
        body.appendLittleEndian(version | type)
        body.appendLittleEndian(device)
        body.appendLittleEndian(UInt32(0))
        body.appendLittleEndian(linkAbilities)
        body.appendLittleEndian(UInt16(0))
        body.appendLittleEndian(link)
        body.appendLittleEndian(slot)
        body += [UInt8](repeating: 0, count: 36)  // the slot's, the root's, and those of version 2
        var mask = [UInt8](repeating: 0, count: body.count)
        func allow(_ register: Int, _ bits: UInt16) {
            mask[register - 2] = UInt8(truncatingIfNeeded: bits)
            mask[register - 1] = UInt8(truncatingIfNeeded: bits >> 8)
        }
        allow(0x08, 0x000F)  // device control: which errors are reported
        allow(Register.linkControl, linkDisable | 1 << 6)  // and the common clock
        allow(Register.slotControl, Control.writable)
        allow(0x1C, 0x000F)  // root control
        return (body, mask)
    }
}
