internal import CLinux
internal import Core
internal import Glibc

/// Which frames a driver wants (VIRTIO 1.3, sections 5.1.6.5.1 to 5.1.6.5.3). Until it has said so, all.
struct ReceiveFilter: Equatable, Sendable {
    /// The most addresses that are told apart; more are all.
    static let addressLimit = 64
    /// Of 64 networks each.
    static let networkWords = 64
    private static let ethernetHeader = 18

    var isPromiscuous = true
    var takesAllGroups = true
    /// The interface's own address; `nil` if it is not known.
    var own: UInt64?
    /// Further addresses, and groups; `nil`: all.
    var addresses: [UInt64]? = []
    var groups: [UInt64]? = []
    /// A bit for each network; none are told apart until one was named.
    var networks: [UInt64] = []

    init(own: UInt64? = nil) { self.own = own }

    /// Whether there is anything to look for.
    var isActive: Bool { !isPromiscuous || !networks.isEmpty }

    mutating func set(network: UInt16, isWanted: Bool) {
        if networks.isEmpty { networks = [UInt64](repeating: 0, count: Self.networkWords) }
        let bit: UInt64 = 1 << UInt64(network & 63)
        let place = Int(network >> 6 & 63)
        if isWanted { networks[place] |= bit } else { networks[place] &= ~bit }
    }

    /// Whether the driver wants a frame that lies in the window.
    func passes(_ window: ReceiveWindow, headerSize: UInt64) -> Bool {
        let listed = window.list(from: headerSize, byteCount: UInt64(Self.ethernetHeader))
        return unsafe withUnsafeTemporaryAllocation(
            byteCount: Self.ethernetHeader, alignment: 8
        ) { bytes in
            var done = 0
            for index in 0..<listed.parts where done < bytes.count {
                let part = unsafe window.parts[index]
                let size = unsafe min(part.iov_len, bytes.count - done)
                // SAFETY: the part is mapped memory of its length; `size` fits.
                unsafe memcpy(bytes.baseAddress.unsafelyUnwrapped + done, part.iov_base, size)
                done += size
            }
            guard done == bytes.count else { return true }
            let target = unsafe UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)) >> 16
            let tag = unsafe UInt32(
                bigEndian: bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
            return takes(target) && takes(tag: tag)
        }
    }

    /// Whether frames to that address are wanted.
    func takes(_ target: UInt64) -> Bool {
        if isPromiscuous || target == 0xffff_ffff_ffff { return true }
        if target >> 40 & 1 != 0 { return takesAllGroups || groups?.contains(target) != false }
        return own == nil || own == target || addresses?.contains(target) != false
    }

    /// Whether frames with what follows the addresses are wanted.
    func takes(tag: UInt32) -> Bool {
        guard !networks.isEmpty, tag >> 16 == 0x8100 else { return true }
        let network = tag & 0xfff
        return network == 0 || networks[Int(network >> 6)] >> UInt64(network & 63) & 1 != 0
    }
}
