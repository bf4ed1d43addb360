import Core
import TestSupport

/// What a case sends.
struct Packet {
    /// How the bytes go out.
    enum Delivery {
        case whole
        /// In pieces of one byte, the descriptors with the first.
        case bytewise
        /// In pieces of one byte, each with the descriptors.
        case floodOfDescriptors
        /// Only so many bytes, and then the end of the stream.
        case cut(Int)
    }

    var flags: UInt32 = 1
    /// What the header says of the size, if not the truth.
    var size: UInt32?
    var payload: [UInt8] = []
    var fds: [SharedFD] = []
    var delivery = Delivery.whole

    init(_ payload: [UInt8] = [], fds: [SharedFD] = []) {
        self.payload = payload
        self.fds = fds
    }

    /// Whether the back end can tell where the next message begins.
    var isComplete: Bool {
        if case .cut = delivery { return false }
        return size.map { Int($0) == payload.count } ?? true
    }
}

/// What a back end has to make of a message.
enum Expectation: Equatable {
    /// It is done, with the reply that the specification demands.
    case accepted
    /// It is answered with an error, or the connection is closed.
    case refused
    /// Anything but silence or a broken reply.
    case survived
}

/// The table's columns.
enum Family: String, CaseIterable {
    /// Messages as they should be, when they should be.
    case valid
    /// Messages as they should be, when they should not.
    case order
    /// Headers and streams.
    case framing
    case size
    case descriptors
    /// What fields say.
    case values
    /// Processes and connections that end.
    case ends
}

/// One row of the table of cases: a message, what is wrong with it, and when it is sent.
struct Case {
    /// What is done instead of sending one message.
    enum Action {
        case send(request: UInt32, wantsAck: Bool, make: (Session) throws -> Packet)
        case special(SpecialCase)
    }

    let message: String
    let variant: String
    let step: Step
    let family: Family
    let expectation: Expectation
    /// Whether the back end offers what the message needs; otherwise it need only survive.
    let isOffered: Bool
    /// The shape of the message's own reply.
    var reply = ReplyShape.none
    /// Whether rings go on as before when the message is accepted.
    var keepsRings = true
    let action: Action

    var name: String { "\(message) \(variant) \(step.name)" }
}

/// How a message of its own answers a request.
enum ReplyShape: Equatable {
    case none
    case u64
    /// A number that is zero for success.
    case status
    case vringState
    case config
    case inflight
    /// With or without a number.
    case anything
}
