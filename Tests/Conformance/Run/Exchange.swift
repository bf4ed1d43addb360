import Core
import Glibc
import TestSupport

/// Sends a case's message and sees what comes of it.
struct Exchange {
    enum Outcome {
        /// A reply, and whether the connection is still there.
        case answered(VhostUserClient.Message, isOpen: Bool)
        /// Nothing came, and the next request is answered.
        case silent
        case closed
        /// Neither an answer nor the end in time.
        case hung
        /// Something came that is no answer to anything.
        case confused(String)
    }

    private static let probe = VhostUserClient.packet(1, [])

    let session: Session
    let request: UInt32

    private var client: VhostUserClient { session.client }

    func run(_ packet: Packet) -> Outcome {
        do {
            try send(packet)
            if packet.isComplete { try client.socket.send(Self.probe) }
        } catch {
            // The back end may have answered before it closed the connection.
        }
        do {
            guard packet.isComplete else { return try awaitEnd() }
            let first = try client.receiveMessage()
            if first.request == 1 && request != 1 { return try probed(first, .silent) }
            guard first.request == request else {
                return .confused("it answers with a message \(first.request)")
            }
            return try awaitProbe(after: first)
        } catch let failure as VhostUserClient.Failure {
            return switch failure.kind {
            case .closed: .closed
            case .silent: .hung
            case .other: .confused("\(failure)")
            }
        } catch {
            return .confused("\(error)")
        }
    }

    private func send(_ packet: Packet) throws {
        let bytes = VhostUserClient.packet(
            request, flags: packet.flags, size: packet.size, packet.payload)
        switch packet.delivery {
        case .whole: try client.socket.send(bytes, fds: packet.fds)
        case .bytewise:
            for (index, byte) in bytes.enumerated() {
                try client.socket.send([byte], fds: index == 0 ? packet.fds : [])
            }
        case .floodOfDescriptors:
            for byte in bytes { try client.socket.send([byte], fds: packet.fds) }
        case .cut(let count):
            try client.socket.send(Array(bytes.prefix(count)), fds: packet.fds)
            shutdown(client.socket.fd.rawValue, Int32(SHUT_WR))
        }
    }

    /// Waits for the back end to close the connection.
    private func awaitEnd() throws -> Outcome {
        while true {
            let message = try client.receiveMessage()
            if message.request != request {
                return .confused("it answers with a message \(message.request)")
            }
        }
    }

    private func awaitProbe(after first: VhostUserClient.Message) throws -> Outcome {
        do {
            let second = try client.receiveMessage()
            guard second.request == 1 else {
                return .confused("it answers twice, then with a message \(second.request)")
            }
            return try probed(second, .answered(first, isOpen: true))
        } catch let failure as VhostUserClient.Failure where failure.kind == .closed {
            return .answered(first, isOpen: false)
        }
    }

    /// Checks the answer to the request that follows.
    private func probed(_ probe: VhostUserClient.Message, _ outcome: Outcome) throws -> Outcome {
        guard probe.payload == littleEndian(session.facts.features) else {
            return .confused("GET_FEATURES is answered differently afterwards")
        }
        return outcome
    }
}
