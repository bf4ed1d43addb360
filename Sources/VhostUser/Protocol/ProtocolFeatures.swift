/// Extensions that both ends negotiate (vhost-user specification, "Protocol features").
package struct ProtocolFeatures: OptionSet, Hashable, Sendable {
    package let rawValue: UInt64

    package init(rawValue: UInt64) { self.rawValue = rawValue }

    private init(bit: UInt64) { rawValue = 1 << bit }

    package static let multiQueue = ProtocolFeatures(bit: 0)  // MQ
    package static let logSharedMemory = ProtocolFeatures(bit: 1)  // LOG_SHMFD
    package static let rarp = ProtocolFeatures(bit: 2)
    package static let replyAck = ProtocolFeatures(bit: 3)
    package static let mtu = ProtocolFeatures(bit: 4)
    package static let backendRequests = ProtocolFeatures(bit: 5)  // BACKEND_REQ
    package static let crossEndian = ProtocolFeatures(bit: 6)
    package static let cryptoSession = ProtocolFeatures(bit: 7)
    package static let pageFault = ProtocolFeatures(bit: 8)
    package static let config = ProtocolFeatures(bit: 9)
    package static let backendDescriptors = ProtocolFeatures(bit: 10)  // BACKEND_SEND_FD
    package static let hostNotifier = ProtocolFeatures(bit: 11)
    package static let inflight = ProtocolFeatures(bit: 12)  // INFLIGHT_SHMFD
    package static let resetDevice = ProtocolFeatures(bit: 13)
    package static let inBandNotifications = ProtocolFeatures(bit: 14)
    package static let memorySlots = ProtocolFeatures(bit: 15)  // CONFIGURE_MEM_SLOTS
    package static let status = ProtocolFeatures(bit: 16)
    package static let xenMapping = ProtocolFeatures(bit: 17)
    package static let sharedObject = ProtocolFeatures(bit: 18)
    package static let deviceState = ProtocolFeatures(bit: 19)
    package static let baseWithInflight = ProtocolFeatures(bit: 20)  // GET_VRING_BASE_INFLIGHT
    package static let guestAddresses = ProtocolFeatures(bit: 21)  // GPA_ADDRESSES
    package static let sharedMemory = ProtocolFeatures(bit: 22)  // SHMEM
    package static let skipDrain = ProtocolFeatures(bit: 23)  // GET_VRING_BASE_SKIP_DRAIN
}

/// Bits of the virtio feature word that belong to vhost, not to the device.
package enum VhostFeature {
    /// Writes to buffers go to the dirty log.
    package static let logAll: UInt64 = 1 << 26  // VHOST_F_LOG_ALL
    /// There are protocol features to negotiate.
    package static let protocolFeatures: UInt64 = 1 << 30  // VHOST_USER_F_PROTOCOL_FEATURES
    package static let all = logAll | protocolFeatures
}
