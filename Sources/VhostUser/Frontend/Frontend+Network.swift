internal import Core

// Network back ends of the older kind, DPDK's for example: they move frames, and leave the
// configuration space and the control queue to the front end, although they name the features of
// those. How many queues they have they say in pairs. One pair needs neither.
extension Frontend {
    /// Whether that is such a back end.
    func movesFramesOnly(_ link: FrontendLink) -> Bool {
        options.deviceID == .net && options.ownConfig == nil && !link.has(.config)
    }

    /// What takes a configuration space or a control queue (VIRTIO 1.3, section 5.1.3).
    static var interfaceFeatures: UInt64 {
        // CTRL_GUEST_OFFLOADS, MTU, MAC; STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA,
        // GUEST_ANNOUNCE, MQ, CTRL_MAC_ADDR; VQ_NOTF_COAL, NOTF_COAL; HASH_REPORT; RSS to
        // SPEED_DUPLEX.
        let bits: [UInt64] = [2, 3, 5, 16, 17, 18, 19, 20, 21, 22, 23, 52, 53, 57, 60, 61, 62, 63]
        return bits.reduce(0) { $0 | 1 << $1 }
    }
}
