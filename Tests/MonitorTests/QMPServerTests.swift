import Core
import Glibc
import TestSupport
import Testing

@testable import Monitor

/// A server with some commands, and clients of its at socket pairs.
private final class Rig {
    let loop: EventLoop
    let server: QMPServer
    /// The answers that `later` owes.
    private(set) var owed: [MonitorReply] = []

    init() throws {
        SignalFD.ignoreBrokenPipes()
        loop = try EventLoop()
        var owe: (MonitorReply) -> Void = { _ in }
        let table = MonitorTable(
            MonitorVersion(package: "test"),
            [
                MonitorCommand(
                    "echo",
                    [.required("text", .string), .optional("count", .integer)]
                ) { arguments throws(MonitorError) in
                    .string(arguments.string("text") ?? "")
                },
                MonitorCommand("open", takesMore: true) { arguments in .object(arguments.members) },
                MonitorCommand("fail") { _ throws(MonitorError) in
                    throw MonitorError("No such thing", .deviceNotFound)
                },
                MonitorCommand("later") { _, reply in owe(reply) },
                MonitorCommand("forget") { _, _ in },
                MonitorCommand("large") { _ in .string(String(repeating: "x", count: 50_000)) },
            ])
        server = QMPServer(table, on: loop)
        owe = { [unowned self] in owed.append($0) }
    }

    func answer(_ value: JSONValue) { owed.removeFirst().succeed(value) }

    /// A client; `isReady` says that it has negotiated.
    func connect(isReady: Bool = true) throws -> Client {
        let (near, far) = try UnixSocket.pair()
        server.serve(far)
        let client = Client(near, loop)
        if isReady {
            #expect(try client.line().hasPrefix(#"{"QMP": "#))
            #expect(try client.ask(#"{"execute": "qmp_capabilities"}"#) == #"{"return": {}}"#)
        }
        return client
    }
}

private final class Client {
    let socket: UnixSocket
    private let loop: EventLoop
    private var bytes: [UInt8] = []
    private(set) var hasEnded = false

    init(_ socket: UnixSocket, _ loop: EventLoop) {
        self.socket = socket
        self.loop = loop
    }

    func send(_ text: String) throws { try socket.send(Array(text.utf8)) }

    private func read() {
        do {
            while let got = try socket.receive(upTo: 65536) {
                if got.bytes.isEmpty {
                    hasEnded = true
                    return
                }
                bytes += got.bytes
            }
        } catch {
            hasEnded = true
        }
    }

    /// The next line, without its end.
    func line() throws -> String {
        var end: Int?
        try #require(
            loop.run {
                read()
                end = bytes.firstIndex(of: UInt8(ascii: "\n"))
                return end != nil
            })
        let line = bytes[..<(end ?? 0)]
        bytes.removeFirst(line.count + 1)
        #expect(line.last == UInt8(ascii: "\r"))
        return String(decoding: line.dropLast(), as: UTF8.self)
    }

    func ask(_ text: String) throws -> String {
        try send(text)
        return try line()
    }

    /// Whether nothing comes for a moment.
    func isSilent() -> Bool {
        loop.runOnce(timeoutMilliseconds: 20)
        loop.runOnce(timeoutMilliseconds: 20)
        read()
        return bytes.isEmpty
    }

    func awaitEnd() -> Bool {
        loop.run {
            read()
            return hasEnded
        }
    }

    /// Sends as much as the socket takes.
    func flood(_ text: String, limit: Int) {
        let bytes = Array(text.utf8)
        for _ in 0..<limit {
            // SAFETY: the bytes live for the call.
            guard unsafe write(socket.fd.rawValue, bytes, bytes.count) == bytes.count else {
                return
            }
        }
    }
}

private func error(_ kind: String, _ text: String) -> String {
    #"{"error": {"class": "\#(kind)", "desc": "\#(text)"}}"#
}

@Suite("QMP")
struct QMPServerTests {
    private let rig: Rig

    init() throws { rig = try Rig() }

    @Test("a client is greeted, and has to negotiate first")
    func negotiation() throws {
        let client = try rig.connect(isReady: false)
        let version = #"{"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "test"}"#
        #expect(try client.line() == #"{"QMP": {"version": \#(version), "capabilities": []}}"#)
        #expect(
            try client.ask(#"{"execute": "echo", "arguments": {"text": "a"}}"#)
                == error(
                    "CommandNotFound",
                    "Expecting capabilities negotiation with 'qmp_capabilities'"))
        let oob = #"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"#
        #expect(
            try client.ask(oob) == error("GenericError", "Capability 'oob' is not available"))
        let begin = #"{"execute": "qmp_capabilities", "arguments": {"enable": []}}"#
        #expect(try client.ask(begin) == #"{"return": {}}"#)
        #expect(
            try client.ask(begin)
                == error(
                    "CommandNotFound",
                    "Capabilities negotiation is already complete, command ignored"))
        #expect(try client.ask(#"{"execute": "query-version"}"#) == #"{"return": \#(version)}"#)
        let names = try client.ask(#"{"execute": "query-commands"}"#)
        #expect(names.contains(#"{"name": "qmp_capabilities"}, {"name": "query-commands"}"#))
    }

    @Test("answers carry any id, also those that say what is wrong")
    func ids() throws {
        let client = try rig.connect()
        let id = #"{"a": [1, null]}"#
        #expect(
            try client.ask(#"{"id": \#(id), "execute": "echo", "arguments": {"text": "é"}}"#)
                == #"{"return": "\u00E9", "id": \#(id)}"#)
        #expect(try client.ask(#"{"execute": 5, "id": 7}"#).hasSuffix(#""id": 7}"#))
    }

    @Test(
        "what is wrong is said, and the next message is understood",
        arguments: [
            ("[1]", "GenericError", "QMP input must be a JSON object"),
            ("5 ", "GenericError", "QMP input must be a JSON object"),
            ("{}", "GenericError", "QMP input lacks member 'execute'"),
            (#"{"execute": 5}"#, "GenericError", "QMP input member 'execute' must be a string"),
            (
                #"{"execute": "echo", "arguments": 5}"#, "GenericError",
                "QMP input member 'arguments' must be an object"
            ),
            (
                #"{"exec-oob": "echo"}"#, "GenericError",
                "QMP input member 'exec-oob' is unexpected"
            ),
            (
                #"{"execute": "nothing"}"#, "CommandNotFound",
                "The command nothing has not been found"
            ),
            (#"{"execute": "echo"}"#, "GenericError", "Parameter 'text' is missing"),
            (
                #"{"execute": "echo", "arguments": {"text": "a", "x": 1}}"#, "GenericError",
                "Parameter 'x' is unexpected"
            ),
            (
                #"{"execute": "echo", "arguments": {"text": 1}}"#, "GenericError",
                "Invalid parameter type for 'text', expected: string"
            ),
            (#"{"execute": "fail"}"#, "DeviceNotFound", "No such thing"),
            (#"{"execute": "forget"}"#, "GenericError", "The command was given up"),
            ("}", "GenericError", "JSON parse error, stray '}'"),
        ])
    func mistakes(text: String, kind: String, reason: String) throws {
        let client = try rig.connect()
        #expect(try client.ask(text) == error(kind, reason))
        let next = #"{"execute": "echo", "arguments": {"text": "next"}}"#
        #expect(try client.ask(next) == #"{"return": "next"}"#)
    }

    @Test("what is not JSON is said so, and the line after it is understood")
    func garbage() throws {
        let client = try rig.connect()
        #expect(try client.ask(#"{"execute" 1}"#).contains("JSON parse error, "))
        #expect(try client.ask("{\"execute\": \u{1}").contains("JSON parse error, "))
        #expect(try client.ask("{'execute': 'fail'}").contains("No such thing"))
    }

    @Test("a command without a schema's end takes whatever comes")
    func openArguments() throws {
        let client = try rig.connect()
        let arguments = #"{"driver": "x", "n": 5}"#
        #expect(
            try client.ask(#"{"execute": "open", "arguments": \#(arguments)}"#)
                == #"{"return": \#(arguments)}"#)
    }

    @Test("several messages come at once, and one in pieces; single quotes do as well")
    func pieces() throws {
        let client = try rig.connect()
        try client.send(
            "{'execute': 'echo', 'arguments': {'text': 'a'}}"
                + #"{"execute": "echo", "arguments": {"text": "b"}}{"execute": "ec"#)
        #expect(try client.line() == #"{"return": "a"}"#)
        #expect(try client.line() == #"{"return": "b"}"#)
        #expect(client.isSilent())
        #expect(try client.ask(#"ho", "arguments": {"text": "c"}}"#) == #"{"return": "c"}"#)
    }

    @Test("a command that is answered later holds up its client, but no other")
    func later() throws {
        let client = try rig.connect()
        let other = try rig.connect()
        try client.send(
            #"{"execute": "later", "id": 1}{"execute": "echo", "arguments": {"text": "a"}}"#)
        #expect(client.isSilent())
        #expect(
            try other.ask(#"{"execute": "echo", "arguments": {"text": "b"}}"#)
                == #"{"return": "b"}"#)
        rig.answer(["done": true])
        #expect(try client.line() == #"{"return": {"done": true}, "id": 1}"#)
        #expect(try client.line() == #"{"return": "a"}"#)
    }

    @Test("a client that has gone does not wait for its answer")
    func gone() throws {
        do {
            let client = try rig.connect()
            try client.send(#"{"execute": "later"}"#)
            #expect(rig.loop.run { rig.owed.count == 1 })
        }
        rig.loop.runOnce(timeoutMilliseconds: 20)
        rig.answer([:])
        let next = try rig.connect()
        #expect(try next.ask("{'execute': 'fail'}").contains("No such thing"))
    }

    @Test("one that has said all is answered all before it is let go")
    func halfClosed() throws {
        let client = try rig.connect()
        try client.send(#"{"execute": "later"}{"execute": "fail"}"#)
        shutdown(client.socket.fd.rawValue, Int32(SHUT_WR))
        #expect(rig.loop.run { rig.owed.count == 1 })
        #expect(client.isSilent())
        rig.answer([:])
        #expect(try client.line() == #"{"return": {}}"#)
        #expect(try client.line().contains("No such thing"))
        #expect(client.awaitEnd())
    }

    @Test("events go to all who have negotiated")
    func events() throws {
        let clients = try [rig.connect(), rig.connect()]
        let new = try rig.connect(isReady: false)
        _ = try new.line()
        let before = Clock.realtime() / 1_000_000_000
        rig.server.emit("SHUTDOWN", ["guest": true])
        rig.server.emit("STOP")
        for client in clients {
            let event = try JSONValue(parsing: Array(client.line().utf8))
            #expect(event["event"] == "SHUTDOWN")
            #expect(event["data"] == ["guest": true])
            #expect(try #require(event["timestamp"]?["seconds"]?.integer) >= before)
            #expect((0..<1_000_000).contains(event["timestamp"]?["microseconds"]?.integer ?? -1))
            let next = try JSONValue(parsing: Array(client.line().utf8))
            #expect(next["event"] == "STOP")
            #expect(next["data"] == nil)
        }
        #expect(new.isSilent())
    }

    @Test("there are only so many clients")
    func manyClients() throws {
        let clients = try (0..<16).map { _ in try rig.connect() }
        let late = try rig.connect(isReady: false)
        #expect(late.awaitEnd())
        #expect(try clients[15].ask("{'execute': 'fail'}").contains("No such thing"))
    }

    @Test("a client that does not read is asked nothing more, and cut off when events pile up")
    func slowReader() throws {
        let sleeper = try rig.connect()
        let other = try rig.connect()
        sleeper.flood("{'execute': 'large'}\n", limit: 100_000)
        for _ in 0..<50 { rig.loop.runOnce(timeoutMilliseconds: 1) }
        let text = JSONValue.string(String(repeating: "x", count: 1000))
        for _ in 0..<3000 {
            rig.server.emit("NOISE", ["text": text])
            #expect(try other.line().contains("NOISE"))
        }
        #expect(sleeper.awaitEnd())
    }

    @Test("a message without an end takes no memory")
    func endless() throws {
        let client = try rig.connect()
        let piece = String(repeating: "[1,", count: 1000)
        try client.send("{\"execute\": \"" + piece)
        for _ in 0..<400 {
            try client.send(piece)
            rig.loop.runOnce(timeoutMilliseconds: 1)
        }
        #expect(try client.line().contains("JSON parse error, it has more than 65536 bytes"))
        #expect(try client.ask("\n{'execute': 'fail'}").contains("No such thing"))
    }
}
