import Core
import TestSupport

/// A message of the specification: what it needs, what it carries, and when it must be accepted.
struct MessageSpec {
    typealias Request = VhostUserClient.Request

    let request: Request
    let name: String
    let need: Need
    let reply: ReplyShape
    /// When the specification lets a front end send it.
    let legal: Set<Step>
    /// The steps at which rings in use do not go on when it is accepted.
    let disturbs: Set<Step>
    /// As a front end would send it then.
    let valid: (Session) throws -> Packet

    init(
        _ request: Request, _ name: String, needs need: Need = .nothing,
        reply: ReplyShape = .none, legal: Set<Step> = .all, disturbs: Set<Step> = [],
        _ valid: @escaping (Session) throws -> Packet = { _ in Packet() }
    ) {
        self.request = request
        self.name = name
        self.need = need
        self.reply = reply
        self.legal = legal
        self.disturbs = disturbs
        self.valid = valid
    }
}

/// What a back end must offer.
enum Need: Sendable {
    case nothing
    case bit(Facts.Extension)
    /// A bit of the device's features.
    case feature(UInt64)
    /// More than one queue, and a number that is not one.
    case freeRing(UInt64)
    /// Nothing that is served here has it.
    case impossible

    func isMet(_ facts: Facts) -> Bool {
        switch self {
        case .nothing: true
        case .bit(let bit): facts.has(bit)
        case .feature(let bit): facts.features & bit != 0
        case .freeRing(let number): facts.has(.multiQueue) && facts.queueCount <= number
        case .impossible: false
        }
    }
}

extension Set<Step> {
    static let all = Set(Step.allCases)
    static func from(_ step: Step) -> Set { all.filter { $0 >= step } }
    /// From one to the one before another.
    static func from(_ step: Step, before end: Step) -> Set {
        all.filter { $0 >= step && $0 < end }
    }
}

/// Payloads, from the types that the specification gives the fields.
func u64(_ values: UInt64...) -> [UInt8] { values.flatMap { littleEndian($0) } }
func u32(_ values: UInt32...) -> [UInt8] { values.flatMap { littleEndian($0) } }

extension Session {
    /// The request ring's number.
    var ring: UInt32 { UInt32(kind.requestQueue) }

    /// A fresh event, and the one that is in use where there is one.
    func event(_ use: KeyPath<Lane, EventFD>) throws -> SharedFD {
        lanes.isEmpty ? try EventFD().fd : lane[keyPath: use].fd
    }

    /// Where the request ring is, or would be.
    var ringAddresses: [UInt8] {
        if !lanes.isEmpty {
            return client.addresses(ring, lane.queue.layout, isLogged: step == .logged)
        }
        let start = Self.mainStart + Self.userOffset
        return u32(ring, 0) + u64(start, start + 0x2000, start + 0x1000, 0)
    }

    /// Where the request ring stands.
    var ringBase: UInt32 {
        if !lanes.isEmpty { return client.base(lane.queue.state) }
        return isPacked ? 0x8000_8000 : 0
    }

    /// What SET_FEATURES has set, or will.
    var currentFeatures: UInt64 { step == .logged ? features | Facts.logAll : features }

    /// The region that nothing is in.
    var spare: GuestRegion { scratch.memory.regions[1] }
}
