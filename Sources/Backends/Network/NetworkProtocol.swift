internal import Core

/// Feature bits of a network device (VIRTIO 1.3, section 5.1.3), as masks.
enum NetworkFeature {
    static let checksum: UInt64 = 1 << 0
    static let guestChecksum: UInt64 = 1 << 1
    static let mtu: UInt64 = 1 << 3
    static let mac: UInt64 = 1 << 5
    static let guestTSO4: UInt64 = 1 << 7
    static let guestTSO6: UInt64 = 1 << 8
    static let guestECN: UInt64 = 1 << 9
    static let hostTSO4: UInt64 = 1 << 11
    static let hostTSO6: UInt64 = 1 << 12
    static let hostECN: UInt64 = 1 << 13
    static let mergeableBuffers: UInt64 = 1 << 15
    static let status: UInt64 = 1 << 16
    static let controlQueue: UInt64 = 1 << 17
    static let controlReceive: UInt64 = 1 << 18
    static let controlVLAN: UInt64 = 1 << 19
    static let announce: UInt64 = 1 << 21
    static let multiQueue: UInt64 = 1 << 22
    static let controlAddress: UInt64 = 1 << 23
    static let guestUSO4: UInt64 = 1 << 54
    static let guestUSO6: UInt64 = 1 << 55
    static let hostUSO: UInt64 = 1 << 56
}

/// What precedes each frame in the driver's buffers (VIRTIO 1.3, section 5.1.6).
enum FrameHeader {
    /// The number of buffers is the last field, which drivers of before VIRTIO 1 know only with
    /// mergeable buffers.
    static func size(features: UInt64) -> UInt64 {
        features & (VirtioFeature.version1 | NetworkFeature.mergeableBuffers) != 0 ? 12 : 10
    }

    static let bufferCountOffset: UInt64 = 10
}

/// Sizes of frames, without header.
enum FrameLimit {
    /// What QEMU takes on a stream, and so what we take there and from drivers.
    static let maximum: UInt64 = 4096 + 65536
    /// What Ethernet adds to the MTU, with one VLAN tag.
    static let overhead: UInt64 = 18
    static let usualMTU: UInt64 = 1500
    /// Pieces of memory that a frame may consist of. One call takes some more.
    static let parts = 1000
}

/// The configuration space (VIRTIO 1.3, section 5.1.4).
struct NetworkConfig {
    var mac: MACAddress?
    var isUp = true
    var wantsAnnouncement = false
    var pairCount: UInt16 = 1
    var mtu: UInt16 = 0

    var space: ConfigSpace {
        var space = ConfigSpace(size: 12)
        if let mac { space.store(mac.bytes, at: 0) }
        // VIRTIO_NET_S_LINK_UP is bit 0, VIRTIO_NET_S_ANNOUNCE bit 1.
        space.store((isUp ? 1 : 0) | (wantsAnnouncement ? 2 : 0) as UInt16, at: 6)
        space.store(pairCount, at: 8)
        space.store(mtu, at: 10)
        return space
    }
}
