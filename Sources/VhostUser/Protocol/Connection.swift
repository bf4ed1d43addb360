package import Core

/// Cuts a socket's stream into messages. It never waits and never reads past the message that it
/// is putting together, so that descriptors stay with the message they came with.
package final class Connection {
    package let socket: UnixSocket
    private let nameOf: (UInt32) -> String

    private var bytes: [UInt8] = []
    private var fds: [SharedFD] = []
    private var header: Header?

    /// - Parameter nameOf: what a request is called in errors.
    package init(_ socket: UnixSocket, nameOf: @escaping (UInt32) -> String) {
        self.socket = socket
        self.nameOf = nameOf
    }

    /// The end of a back end: requests come from a front end.
    package static func frontendNames(_ request: UInt32) -> String {
        FrontendRequest(rawValue: request)?.rule.name ?? "request \(request)"
    }

    /// The front end's end of the back-end channel.
    package static func backendNames(_ request: UInt32) -> String {
        BackendRequest(rawValue: request)?.rule.name ?? "back-end request \(request)"
    }

    /// What is being put together, by name; `nil` between two messages.
    package var unfinished: String? {
        if let header { return nameOf(header.request) }
        return bytes.isEmpty ? nil : "header"
    }

    /// The next whole message, or `nil` if it has not all come yet.
    package func receive() throws(ConnectionError) -> Message? {
        while true {
            if header == nil, bytes.count == Header.byteCount {
                do {
                    header = try Header(bytes, name: nameOf)
                } catch {
                    throw .protocolError(error)
                }
                bytes = []
            }
            if let header, bytes.count == Int(header.size) { return finish(header) }
            let wanted = header.map { Int($0.size) } ?? Header.byteCount
            guard try receiveSome(wanted - bytes.count) else { return nil }
        }
    }

    private func finish(_ header: Header) -> Message {
        defer {
            self.header = nil
            bytes = []
            fds = []
        }
        var message = Message(
            request: header.request, flags: header.flags, payload: bytes, fds: fds)
        message.header = header
        return message
    }

    /// - Returns: false if there is nothing yet.
    private func receiveSome(_ count: Int) throws(ConnectionError) -> Bool {
        let name = unfinished ?? "header"
        let part: ReceivedBytes?
        do {
            part = try socket.receive(upTo: count)
        } catch {
            throw error.isConnectionReset ? .closed : .system(error)
        }
        guard let part else { return false }
        if part.bytes.isEmpty {
            if unfinished == nil { throw .closed }
            throw .protocolError(
                ProtocolError(
                    name, "size",
                    "the connection ended \(count) bytes before the end of the message"))
        }
        if part.hasLostDescriptors || fds.count + part.fds.count > UnixSocket.maximumDescriptors {
            throw .protocolError(ProtocolError(name, "descriptors", "there are too many"))
        }
        bytes += part.bytes
        fds += part.fds
        return true
    }

    /// - Parameter timeoutMilliseconds: how long the peer has to make room.
    package func send(
        _ message: Message, timeoutMilliseconds: UInt64 = 5000
    ) throws(ConnectionError) {
        do {
            try socket.send(
                message.bytes, fds: message.fds, timeoutMilliseconds: timeoutMilliseconds)
        } catch {
            throw error.isConnectionReset ? .closed : .system(error)
        }
    }
}
