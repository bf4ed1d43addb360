internal import Core
internal import VhostUser

/// The queue of a driver's commands (VIRTIO 1.3, section 5.1.6.5).
final class ControlQueue {
    /// A class in the low byte, and a command of it.
    private enum Command {
        static let promiscuous: UInt16 = 0x0000  // VIRTIO_NET_CTRL_RX_PROMISC
        static let allGroups: UInt16 = 0x0100  // VIRTIO_NET_CTRL_RX_ALLMULTI
        static let addresses: UInt16 = 0x0001  // VIRTIO_NET_CTRL_MAC_TABLE_SET
        static let ownAddress: UInt16 = 0x0101  // VIRTIO_NET_CTRL_MAC_ADDR_SET
        static let addNetwork: UInt16 = 0x0002  // VIRTIO_NET_CTRL_VLAN_ADD
        static let removeNetwork: UInt16 = 0x0102  // VIRTIO_NET_CTRL_VLAN_DEL
        static let announced: UInt16 = 0x0003  // VIRTIO_NET_CTRL_ANNOUNCE_ACK
        static let setPairs: UInt16 = 0x0004  // VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
    }
    private enum Answer {
        static let ok: UInt8 = 0
        static let error: UInt8 = 1
    }

    /// What commands lead to.
    enum Event {
        /// The driver uses so many pairs from now on.
        case pairs(Int)
        case filter(ReceiveFilter)
        /// The interface has another address.
        case address(MACAddress)
        case announced
    }

    private let pairCount: Int
    private let onEvent: (Event) -> Void
    private let chain = DescriptorChain(capacity: 4)
    private var filter: ReceiveFilter
    private var queue: LoopQueue?

    /// - Parameter filter: what frames the driver wants, as far as is known.
    init(
        _ setup: QueueSetup, index: Int, on loop: EventLoop, pairCount: Int,
        filter: ReceiveFilter, onEvent: @escaping (Event) -> Void
    ) throws(VirtioDeviceError) {
        self.pairCount = pairCount
        self.filter = filter
        self.onEvent = onEvent
        queue = try LoopQueue(setup, index: index, on: loop) { [unowned self] in serve() }
    }

    func stop() -> QueueState { queue?.stop() ?? .freshSplit }

    private func serve() {
        guard let queue else { return }
        while queue.pop(into: chain) {
            let hasRoom = chain.writableLength > 0
            // The answer is the last byte of what can be written.
            if hasRoom {
                let answer = perform() ? Answer.ok : Answer.error
                chain.write(at: chain.writableLength &- 1, answer)
            }
            queue.push(chain, written: hasRoom ? UInt32(clamping: chain.writableLength) : 0)
        }
        queue.publish()
    }

    private func half(at offset: UInt64) -> UInt16? {
        chain.read(at: offset, as: UInt16.self)?.littleEndian
    }

    /// - Returns: whether it made sense.
    private func perform() -> Bool {
        let before = filter
        switch half(at: 0) {
        case Command.setPairs:
            guard let count = half(at: 2).map(Int.init), count >= 1, count <= pairCount else {
                return false
            }
            onEvent(.pairs(count))
            return true
        case Command.announced:
            onEvent(.announced)
            return true
        case Command.promiscuous:
            guard let isOn = chain.read(at: 2, as: UInt8.self) else { return false }
            filter.isPromiscuous = isOn != 0
        case Command.allGroups:
            guard let isOn = chain.read(at: 2, as: UInt8.self) else { return false }
            filter.takesAllGroups = isOn != 0
        case Command.addresses: guard setAddresses() else { return false }
        case Command.ownAddress:
            guard let address = MACAddress(bytes: chain.readBytes(at: 2, count: 6)) else {
                return false
            }
            filter.own = address.number
            onEvent(.address(address))
        case Command.addNetwork, Command.removeNetwork:
            guard let network = half(at: 2), network < 4096 else { return false }
            filter.set(network: network, isWanted: half(at: 0) == Command.addNetwork)
        default: return false
        }
        if filter != before { onEvent(.filter(filter)) }
        return true
    }

    /// Two lists, each with its length.
    private func setAddresses() -> Bool {
        guard let (addresses, next) = list(at: 2), let (groups, _) = list(at: next) else {
            return false
        }
        (filter.addresses, filter.groups) = (addresses, groups)
        return true
    }

    /// - Returns: the addresses, `nil` if there are too many, and where the list ends.
    private func list(at offset: UInt64) -> ([UInt64]?, end: UInt64)? {
        guard let count = chain.read(at: offset, as: UInt32.self)?.littleEndian else {
            return nil
        }
        let end = offset + 4 + UInt64(count) * 6
        guard end <= chain.readableLength else { return nil }
        guard count <= ReceiveFilter.addressLimit else { return (nil, end) }
        let bytes = chain.readBytes(at: offset + 4, count: Int(count) * 6)
        let addresses = (0..<Int(count)).map { index in
            bytes[6 * index..<6 * index + 6].reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        }
        return (addresses, end)
    }
}
