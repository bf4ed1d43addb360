import TestSupport

/// Decides whether what came of a case is right.
struct Judge {
    let tested: Case
    let wantsAck: Bool
    let packet: Packet
    let deadline: UInt64

    private var expectsMessage: Bool { wantsAck || tested.reply != .none }

    /// - Returns: what is wrong, as a sentence; `nil` if it is right.
    func failure(_ outcome: Exchange.Outcome) -> String? {
        switch outcome {
        case .hung: "neither an answer nor the end of the connection within \(deadline) ms"
        case .confused(let text): text
        case .closed:
            tested.expectation == .accepted ? "the connection is closed" : nil
        case .silent: silence
        case .answered(let message, let isOpen): answer(message, isOpen: isOpen)
        }
    }

    private var silence: String? {
        switch tested.expectation {
        case .survived: nil
        case .accepted: expectsMessage ? "there is no reply" : nil
        case .refused: expectsMessage ? "there is no reply" : "it is ignored or accepted"
        }
    }

    private func answer(_ message: VhostUserClient.Message, isOpen: Bool) -> String? {
        guard message.flags & 7 == 5 else {
            return "the reply has flags 0x\(String(message.flags, radix: 16))"
        }
        switch tested.expectation {
        case .survived: return nil
        case .refused: return isError(message) || !isOpen ? nil : "it is accepted"
        case .accepted:
            guard expectsMessage else { return "there is a reply that nothing asks for" }
            guard isOpen else { return "the connection is closed after the reply" }
            return tested.reply == .none ? acknowledgement(message) : reply(message)
        }
    }

    private func number(_ message: VhostUserClient.Message) -> UInt64 {
        VhostUserClient.value(message.payload, 0, UInt64.self)
    }

    /// Whether a reply says that something is wrong.
    private func isError(_ message: VhostUserClient.Message) -> Bool {
        switch tested.reply {
        case .none, .status, .anything:
            message.payload.count == 8 && number(message) != 0
        case .config: message.payload.isEmpty
        case .inflight: message.fds.isEmpty || number(message) == 0
        case .u64, .vringState: false
        }
    }

    private func acknowledgement(_ message: VhostUserClient.Message) -> String? {
        guard message.payload.count == 8 else {
            return "the acknowledgement has \(message.payload.count) bytes"
        }
        return number(message) == 0 ? nil : "the acknowledgement is \(number(message)), not 0"
    }

    private func reply(_ message: VhostUserClient.Message) -> String? {
        let size = message.payload.count
        switch tested.reply {
        case .none, .anything: return nil
        case .u64: return size == 8 ? nil : "the reply has \(size) bytes"
        case .status: return acknowledgement(message)
        case .vringState:
            guard size == 8 else { return "the reply has \(size) bytes" }
            return message.payload.prefix(4) == packet.payload.prefix(4)
                ? nil : "the reply is about another ring"
        case .config:
            guard size == packet.payload.count else {
                return "the reply has \(size) bytes, not \(packet.payload.count)"
            }
            return message.payload.prefix(8) == packet.payload.prefix(8)
                ? nil : "the reply is about another part of the configuration space"
        case .inflight:
            guard size == 20 || size == 24 else { return "the reply has \(size) bytes" }
            return message.fds.count == 1 && number(message) > 0
                ? nil : "the reply has \(message.fds.count) descriptors"
        }
    }
}
