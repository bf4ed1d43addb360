import Core
import Glibc
import TestSupport

@testable import Monitor

/// What hostile clients say to a monitor: several at once, which read, sleep, fall silent and go.
struct QMPTarget: FuzzTarget {
    static let name = "qmp"
    static let about = "clients of the monitor: messages, pieces of them, and garbage"

    /// Conversations: a client's number, what it does, and the text where there is one.
    static let seeds: [[UInt8]] = [
        #"{"execute": "qmp_capabilities", "arguments": {"enable": []}, "id": [1, {"a": null}]}"#,
        "{'execute': 'qmp_capabilities'}{'execute': 'later', 'id': 1.5}{'execute': 'query-version'}",
        "{\"execute\": \"echo\", \"arguments\": {\"text\": \"\\u00e9\u{e9}\"}}\r\n",
        "}{\"a\": \"\n[[[[{\"b\":99999999999999999999,\"c\":1e999}]]]]true 1 \"x\" ,",
    ].map { text in
        FuzzSeed.make { seed in
            for message in ["{'execute': 'qmp_capabilities'}\n", text] {
                seed.choose(0, of: 3)
                seed.choose(0, of: 8)
                seed.choose(message.utf8.count - 1, of: 300)
                seed.put(Array(message.utf8))
                seed.choose(0, of: 3)
                seed.choose(4, of: 8)
            }
        }
    }

    init() throws { SignalFD.ignoreBrokenPipes() }

    mutating func run(_ input: inout FuzzInput) throws -> Bool {
        let world = try FuzzMonitor()
        for _ in 0..<24 where !input.isEmpty { try world.step(&input) }
        try world.finish()
        return world.hasNegotiated
    }
}

/// A monitor with commands that are answered at once, later and never, and its clients.
private final class FuzzMonitor {
    private struct Client {
        let socket: UnixSocket
        var bytes: [UInt8] = []
        var isAsleep = false
    }

    private let loop: EventLoop
    private let server: QMPServer
    private var owed: [MonitorReply] = []
    private var clients: [Client] = []
    private(set) var hasNegotiated = false

    init() throws {
        loop = try EventLoop()
        var owe: (MonitorReply) -> Void = { _ in }
        server = QMPServer(
            MonitorTable(
                MonitorVersion(package: "fuzz"),
                [
                    MonitorCommand("echo", [.required("text", .string)]) { arguments in
                        .string(arguments.string("text") ?? "")
                    },
                    MonitorCommand("any", takesMore: true) { .object($0.members) },
                    MonitorCommand("later") { _, reply in owe(reply) },
                ]), on: loop)
        owe = { [unowned self] in owed.append($0) }
        for _ in 0..<3 { try connect() }
    }

    private func connect() throws {
        let (near, far) = try UnixSocket.pair()
        server.serve(far)
        clients.append(Client(socket: near))
    }

    func step(_ input: inout FuzzInput) throws {
        let index = input.below(clients.count)
        let fd = clients[index].socket.fd.rawValue
        switch input.below(8) {
        case 0...1: send(input.take(1 + input.below(300)), to: fd)
        case 2:
            // Much of the same.
            let piece = input.take(1 + input.below(8))
            send(
                Array([[UInt8]](repeating: piece, count: 1 + input.below(20_000)).joined()), to: fd)
        case 3: if !owed.isEmpty { owed.remove(at: input.below(owed.count)).succeed() }
        case 4: try serve()
        case 5: clients[index].isAsleep = input.flag()
        case 6: server.emit("EVENT", input.flag() ? ["a": "b"] : nil)
        default:
            shutdown(fd, input.flag() ? Int32(SHUT_WR) : Int32(SHUT_RDWR))
            if clients.count < 20 { try connect() }
        }
    }

    private func send(_ bytes: [UInt8], to fd: Int32) {
        // SAFETY: the bytes live for the call; what the socket does not take is left out.
        _ = unsafe write(fd, bytes, bytes.count)
    }

    private func serve() throws {
        for _ in 0..<4 { loop.runOnce(timeoutMilliseconds: 0) }
        for index in clients.indices where !clients[index].isAsleep { try read(index) }
    }

    /// Each line is a JSON object of a kind that clients know.
    private func read(_ index: Int) throws {
        while let got = try? clients[index].socket.receive(upTo: 65536), !got.bytes.isEmpty {
            clients[index].bytes += got.bytes
        }
        while let end = clients[index].bytes.firstIndex(of: UInt8(ascii: "\n")) {
            let line = Array(clients[index].bytes[..<end])
            clients[index].bytes.removeFirst(end + 1)
            try require(line.last == UInt8(ascii: "\r"), "a line has no CR")
            try require(line.allSatisfy { $0 < 0x80 }, "a line is not ASCII")
            let value = try JSONValue(parsing: line)
            let names = ["QMP", "return", "error", "event"]
            try require(
                names.count { value[$0] != nil } == 1,
                "a line is no answer: \(String(decoding: line, as: UTF8.self))")
            if value["return"] != nil { hasNegotiated = true }
        }
    }

    /// A well-behaved client is served whatever the others did.
    func finish() throws {
        for client in clients { shutdown(client.socket.fd.rawValue, Int32(SHUT_RDWR)) }
        owed = []
        for _ in 0..<8 { loop.runOnce(timeoutMilliseconds: 0) }
        let others = hasNegotiated
        clients = []
        try connect()
        hasNegotiated = false
        send(Array("{'execute': 'qmp_capabilities'}".utf8), to: clients[0].socket.fd.rawValue)
        let deadline = Clock.monotonic() &+ 5_000_000_000
        while !hasNegotiated, Clock.monotonic() < deadline { try serve() }
        try require(hasNegotiated, "a client is not served after the others")
        hasNegotiated = others
    }
}
