import Core
import TestSupport

/// What a back end says about itself, and how it behaves when a front end leaves.
struct Facts {
    /// Bits of the protocol feature word that cases ask for.
    enum Extension: UInt64 {
        case multiQueue = 0
        case log = 1
        case rarp = 2
        case replyAck = 3
        case mtu = 4
        case channel = 5
        case endianness = 6
        case crypto = 7
        case postcopy = 8
        case config = 9
        case inflight = 12
        case resetDevice = 13
        case inBand = 14
        case memorySlots = 15
        case status = 16
        case sharedObject = 18
        case deviceState = 19
        case sharedMemory = 22
    }

    static let logAll: UInt64 = 1 << 26

    var features: UInt64
    var protocolFeatures: UInt64
    var queueCount: UInt64
    /// It ends with its first front end.
    var servesOneClient = false
    /// It is ours to end and start.
    var canRestart = true

    /// A back end that offers everything: for lists of cases.
    static let everything = Facts(
        features: .max, protocolFeatures: .max & ~(1 << 14), queueCount: 2)

    func has(_ bit: Extension) -> Bool { protocolFeatures & 1 << bit.rawValue != 0 }

    var isPacked: Bool { features & VirtioFeature.packedRing != 0 }

    init(features: UInt64, protocolFeatures: UInt64, queueCount: UInt64) {
        self.features = features
        self.protocolFeatures = protocolFeatures
        self.queueCount = queueCount
    }

    /// Asks a back end.
    init(_ client: VhostUserClient) throws {
        func ask(_ request: VhostUserClient.Request) throws -> UInt64 {
            VhostUserClient.value(try client.send(request, hasReply: true), 0, UInt64.self)
        }
        features = try ask(.getFeatures)
        protocolFeatures = 0
        queueCount = 1
        guard features & VhostUserClient.protocolFeaturesBit != 0 else { return }
        protocolFeatures = try ask(.getProtocolFeatures)
        if has(.multiQueue) { queueCount = try ask(.getQueueCount) }
    }

    /// All that is agreed on in a session: everything but what changes how addresses or
    /// notifications work.
    func wanted(isPacked: Bool) -> UInt64 {
        let rings =
            VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
            | (isPacked ? VirtioFeature.packedRing : 0)
        return features & (rings | (1 << 24 - 1) | VhostUserClient.protocolFeaturesBit)
    }

    /// The protocol features that are agreed on: all but in-band notifications, memory of Xen,
    /// states without draining, and guest addresses in place of user addresses.
    var wantedProtocol: UInt64 {
        protocolFeatures & (1 << 23 - 1) & ~(1 << 14 | 1 << 17 | 1 << 20 | 1 << 21)
    }
}
