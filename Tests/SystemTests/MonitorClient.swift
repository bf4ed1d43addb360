import Core
import Foundation
import TestSupport

/// A client of QMP.
final class MonitorClient {
    private let socket: UnixSocket
    private var bytes: [UInt8] = []
    private var events: [[String: Any]] = []

    /// Connects as soon as somebody listens, and negotiates.
    init(_ path: String) throws {
        let deadline = Date() + 30
        while true {
            do {
                socket = try UnixSocket(connectingTo: path)
                break
            } catch {
                guard Date() < deadline else { throw error }
                usleep(10_000)
            }
        }
        let greeting = try read()
        guard greeting["QMP"] != nil else { throw TestFailure("no greeting: \(greeting)") }
        _ = try value(of: "qmp_capabilities")
    }

    /// What a command returns.
    /// - Parameter arguments: JSON.
    func value(of command: String, _ arguments: String = "{}") throws -> Any {
        let message = try answer(to: command, arguments)
        guard let value = message["return"] else { throw TestFailure("\(command): \(message)") }
        return value
    }

    /// Why a command is not done.
    func failure(of command: String, _ arguments: String) throws -> String {
        let message = try answer(to: command, arguments)
        return (message["error"] as? NSDictionary)?["desc"] as? String ?? "\(message)"
    }

    private func answer(to command: String, _ arguments: String) throws -> [String: Any] {
        let text = "{\"execute\": \"\(command)\", \"arguments\": \(arguments)}"
        try socket.send(Array(text.utf8))
        while true {
            let message = try read()
            guard message["event"] != nil else { return message }
            events.append(message)
        }
    }

    /// What a command returns, which is an object.
    func ask(_ command: String, _ arguments: String = "{}") throws -> NSDictionary? {
        try value(of: command, arguments) as? NSDictionary
    }

    func status() throws -> String? { try ask("query-status")?["status"] as? String }

    /// Waits for the next event, which is to be of that name.
    /// - Returns: its data.
    @discardableResult
    func expectEvent(_ name: String) throws -> Any? { try nextEvent(of: [name]) }

    /// Waits for the next event, which is to be one of these.
    /// - Returns: its data.
    func nextEvent(of names: [String]) throws -> Any? {
        let event = try events.isEmpty ? read() : events.removeFirst()
        guard names.contains(event["event"] as? String ?? ""), event["timestamp"] is NSDictionary
        else { throw TestFailure("no event \(names): \(event)") }
        return event["data"]
    }

    private func read() throws -> [String: Any] {
        let deadline = Date() + 60
        while !bytes.contains(UInt8(ascii: "\n")) {
            guard Date() < deadline else { throw TestFailure("the monitor says nothing") }
            _ = socket.waitReadable(timeoutMilliseconds: 100)
            guard let got = try socket.receive(upTo: 65536) else { continue }
            guard !got.bytes.isEmpty else { throw TestFailure("the monitor has gone") }
            bytes += got.bytes
        }
        let line = bytes.prefix { $0 != UInt8(ascii: "\n") }
        bytes.removeFirst(line.count + 1)
        let value = try JSONSerialization.jsonObject(with: Data(line))
        return value as? [String: Any] ?? [:]
    }
}
