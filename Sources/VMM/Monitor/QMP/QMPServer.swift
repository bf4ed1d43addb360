package import Core

let monitorLog = Log("monitor")

/// Serves QMP, QEMU's monitor protocol, on listening Unix sockets. Each takes many clients; all of
/// them get the events. Everything happens on the loop's thread.
package final class QMPServer {
    private static let maximumClients = 16

    private let loop: EventLoop
    private let table: MonitorTable
    private var clients: [QMPClient] = []
    private var watches: [EventRegistration] = []

    package init(_ table: MonitorTable, on loop: EventLoop) {
        self.table = table
        self.loop = loop
    }

    /// Takes connections from now on.
    package func listen(on listener: UnixListener) {
        watches.append(
            loop.watch(listener.fd.rawValue, for: .readable) { [unowned self, listener] _ in
                accept(listener)
            })
    }

    private func accept(_ listener: UnixListener) {
        do {
            guard let socket = try listener.accept() else { return }
            serve(socket)
        } catch {
            monitorLog.guest("a connection could not be accepted: \(error)")
        }
    }

    /// Takes a client that is connected.
    package func serve(_ socket: UnixSocket) {
        guard clients.count < Self.maximumClients else {
            return monitorLog.guest(
                "a client is turned away: there are \(Self.maximumClients) already")
        }
        clients.append(
            QMPClient(socket, table, on: loop) { [unowned self] client in
                clients.removeAll { $0 === client }
            })
    }

    /// Tells all clients that something has happened.
    /// - Parameter data: an object, if there is more to say.
    package func emit(_ event: String, _ data: JSONValue? = nil) {
        if clients.isEmpty { return }
        let time = Clock.realtime()
        var members: [JSONValue.Member] = [
            .init(
                "timestamp",
                [
                    "seconds": .integer(Int64(time / 1_000_000_000)),
                    "microseconds": .integer(Int64(time / 1000 % 1_000_000)),
                ]),
            .init("event", .string(event)),
        ]
        if let data { members.append(.init("data", data)) }
        let message = JSONValue.object(members)
        for client in clients { client.tell(message) }
    }
}
