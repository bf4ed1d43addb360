internal import VhostUser

/// What a console's process passes on to the one that takes its place.
///
///     version u16 = 1
///     ports u32, for each: open in the guest u8, connection as told u8, and input, output and shown
///     output as length u32 and bytes
///     messages u32, for each: port u32, event u16, value u16, rest as length u32 and bytes
struct ConsoleState {
    struct Port {
        var isOpenInGuest: Bool
        /// For the guest.
        var input: [UInt8]
        /// From the guest.
        var output: [UInt8]
        var shown: [UInt8]
    }

    private static let version: UInt16 = 1

    /// More than a console has, in bytes and messages. A front end may bring any state.
    private enum Limit {
        static let input = 64 << 10
        static let output = 2 << 20
        static let shown = 16 << 20
        static let messages = 1024
        static let rest = 256
    }

    var ports: [Port]
    /// What the guest was told of each port's host end.
    var toldConnected: [Bool?]
    var messages: [ConsoleMessage]

    init(ports: [Port], toldConnected: [Bool?], messages: [ConsoleMessage]) {
        self.ports = ports
        self.toldConnected = toldConnected
        self.messages = messages
    }

    var bytes: [UInt8] {
        var writer = WireWriter()
        func append(_ bytes: [UInt8]) {
            writer.append(UInt32(clamping: bytes.count))
            writer.append(bytes)
        }
        writer.append(Self.version)
        writer.append(UInt32(clamping: ports.count))
        for (port, told) in zip(ports, toldConnected) {
            writer.append(UInt8(port.isOpenInGuest ? 1 : 0))
            writer.append(UInt8(told.map { $0 ? 1 : 0 } ?? 2))
            append(port.input)
            append(port.output)
            append(port.shown)
        }
        writer.append(UInt32(clamping: messages.count))
        for message in messages {
            writer.append(message.port)
            writer.append(message.event)
            writer.append(message.value)
            append(message.rest)
        }
        return writer.bytes
    }

    init(_ bytes: [UInt8]) throws(ProtocolError) {
        var reader = WireReader("console state", bytes)
        let version: UInt16 = try reader.number("version")
        guard version == Self.version else {
            throw ProtocolError("console state", "version", "\(version) is not 1")
        }
        ports = []
        toldConnected = []
        messages = []
        for _ in 0..<(try reader.count("ports", limit: ConsoleOptions.maximumPorts)) {
            let isOpen: UInt8 = try reader.number("open")
            let told: UInt8 = try reader.number("told")
            ports.append(
                Port(
                    isOpenInGuest: isOpen != 0,
                    input: try reader.block("input", limit: Limit.input),
                    output: try reader.block("output", limit: Limit.output),
                    shown: try reader.block("shown", limit: Limit.shown)))
            toldConnected.append(told > 1 ? nil : told == 1)
        }
        for _ in 0..<(try reader.count("messages", limit: Limit.messages)) {
            messages.append(
                ConsoleMessage(
                    port: try reader.number("port"), event: try reader.number("event"),
                    value: try reader.number("value"),
                    rest: try reader.block("rest", limit: Limit.rest)))
        }
        try reader.finish()
    }
}
