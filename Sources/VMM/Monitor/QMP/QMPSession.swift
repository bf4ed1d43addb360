internal import Core

/// What is said with one client of QMP: messages in, lines out. It knows no socket.
///
/// Commands are done one after the other, as QEMU does them: the next one begins when the last one
/// has been answered.
final class QMPSession {
    /// Of one message.
    static let maximumSize = 64 << 10

    private let table: MonitorTable
    private var framer = JSONFramer(maximumSize: QMPSession.maximumSize)
    /// The client has ended the negotiation of capabilities.
    private(set) var isReady = false
    /// A command has not been answered yet.
    private(set) var isBusy = false

    /// Takes what is for the client.
    var send: (JSONValue) -> Void = { _ in }
    /// Something was answered later: there may be more to do.
    var onIdle: () -> Void = {}

    init(_ table: MonitorTable) { self.table = table }

    /// Says who we are.
    func greet() {
        send(["QMP": ["version": table.version.json, "capabilities": []]])
    }

    /// Tells the client of an event, once it has done with the negotiation.
    func tell(_ event: JSONValue) {
        if isReady { send(event) }
    }

    /// Takes bytes away up to the end of a message; `nil` when all are used up.
    func nextMessage(_ bytes: inout ArraySlice<UInt8>) -> JSONFramer.Item? { framer.next(&bytes) }

    /// Begins to do what a message asks for.
    func take(_ message: JSONFramer.Item) {
        precondition(!isBusy, "a client's commands are done one after the other")
        switch message {
        case .error(let reason): answer(.failure(Self.parseError(reason)), nil)
        case .value(let text):
            do {
                obey(try JSONValue(parsing: text))
            } catch {
                answer(.failure(Self.parseError(error.reason)), nil)
            }
        }
    }

    private static func parseError(_ reason: String) -> MonitorError {
        MonitorError("JSON parse error, \(reason)")
    }

    private func obey(_ value: JSONValue) {
        let id = value["id"]
        do {
            let request = try QMPRequest(value)
            if request.command == Self.negotiation || !isReady {
                try negotiate(request)
                answer(.success([:]), id)
            } else {
                try begin(request)
            }
        } catch {
            answer(.failure(error), id)
        }
    }

    private func begin(_ request: QMPRequest) throws(MonitorError) {
        let command = try table.command(request.command)
        let arguments = try MonitorArguments(request.arguments, for: command)
        isBusy = true
        var isLater = false
        do {
            let reply = MonitorReply { [weak self] result in
                guard let self else { return }
                isBusy = false
                answer(result, request.id)
                if isLater { onIdle() }
            }
            command.handler(arguments, reply)
            // A reply that nobody keeps is answered here.
        }
        isLater = true
    }

    // MARK: Negotiation

    static let negotiation = "qmp_capabilities"

    private func negotiate(_ request: QMPRequest) throws(MonitorError) {
        guard request.command == Self.negotiation else {
            throw MonitorError(
                "Expecting capabilities negotiation with '\(Self.negotiation)'", .commandNotFound)
        }
        guard !isReady else {
            throw MonitorError(
                "Capabilities negotiation is already complete, command ignored", .commandNotFound)
        }
        let arguments = try MonitorArguments(request.arguments, for: Self.negotiationCommand)
        for capability in arguments["enable"]?.array ?? [] {
            let name = capability.string.map { " '\($0)'" } ?? ""
            throw MonitorError("Capability\(name) is not available")
        }
        isReady = true
    }

    private static var negotiationCommand: MonitorCommand {
        MonitorCommand(negotiation, [.optional("enable", .array)]) { _ in [:] }
    }

    private func answer(_ result: Result<JSONValue, MonitorError>, _ id: JSONValue?) {
        var members: [JSONValue.Member]
        switch result {
        case .success(let value): members = [.init("return", value)]
        case .failure(let error):
            let text: JSONValue = [
                "class": .string(error.kind.rawValue), "desc": .string(error.description),
            ]
            members = [.init("error", text)]
        }
        if let id { members.append(.init("id", id)) }
        send(.object(members))
    }
}
