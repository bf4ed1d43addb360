package import Core

/// What a network device is connected to, and what its driver sees.
package struct NetworkOptions: Equatable, Sendable {
    /// Where frames go to and come from.
    package enum Link: Equatable, Sendable {
        /// Nowhere: what is sent is dropped.
        case none
        /// A stream socket at a path, with each frame's length before it.
        case stream(path: String, role: Role)
        /// A pair of datagram sockets: what is sent to ours, and where we send to.
        case datagram(local: String, remote: String)
        /// A connected socket that the parent process left open, stream or datagram.
        case inherited(Int32)
    }

    /// Who waits for whom.
    package enum Role: Equatable, Sendable { case client, server }

    package var link: Link
    /// `nil`: the driver makes one up.
    package var mac: MACAddress?
    /// `nil`: the driver is told none.
    package var mtu: UInt16?
    package var maximumQueueSize: UInt16

    enum Kind: String, CaseIterable, Sendable { case stream, dgram, connected, none }

    private enum Keys {
        static let type = OptionKey.required(
            "type", .choice(Kind.self),
            help: "what it is connected to: a Unix socket, stream or dgram, as QEMU's -netdev of "
                + "that name; an open socket, connected; or nothing, none")
        static let path = OptionKey<String?>("path", .path, help: "the socket of type=stream")
        static let server = OptionKey(
            "server", .bool, default: false,
            help: "wait for the peer at path, instead of connecting, again and again, to its")
        static let local = OptionKey<String?>(
            "local", .path, help: "the socket of type=dgram where frames come in")
        static let remote = OptionKey<String?>(
            "remote", .path, help: "the peer's socket of type=dgram, where frames go to")
        static let fd = OptionKey<UInt64?>(
            "fd", .integer(0...UInt64(Int32.max)), help: "the open socket of type=connected")
        static let mac = OptionKey<MACAddress?>(
            "mac", MACAddress.optionType,
            help: "the interface's address; by default the guest makes one up")
        static let mtu = OptionKey<UInt64?>(
            "mtu", .integer(68...65521), help: "the largest packet that the guest may use")
        static let queueSize = OptionKey(
            "queue-size", .integer(2...1024), default: 256, help: "most entries in a queue")
    }

    package static let schema = OptionSchema(
        "net", leadingKey: "type",
        keys: [
            Keys.type.any, Keys.path.any, Keys.server.any, Keys.local.any, Keys.remote.any,
            Keys.fd.any, Keys.mac.any, Keys.mtu.any, Keys.queueSize.any,
        ])

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        link = try Self.link(values)
        mac = values[Keys.mac]
        mtu = values[Keys.mtu].map { UInt16(clamping: $0) }
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
    }

    private static func link(_ values: OptionValues) throws(OptionError) -> Link {
        let kind = values[Keys.type]
        let owners: [(key: String, kind: Kind, isGiven: Bool)] = [
            ("path", .stream, values.isGiven(Keys.path)),
            ("server", .stream, values.isGiven(Keys.server)),
            ("local", .dgram, values.isGiven(Keys.local)),
            ("remote", .dgram, values.isGiven(Keys.remote)),
            ("fd", .connected, values.isGiven(Keys.fd)),
        ]
        for owner in owners where owner.isGiven && owner.kind != kind {
            throw OptionError("\(owner.key) needs type=\(owner.kind.rawValue)")
        }
        switch kind {
        case .none: return .none
        case .stream:
            let path = try need(values[Keys.path], "path", kind)
            return .stream(path: path, role: values[Keys.server] ? .server : .client)
        case .dgram:
            return .datagram(
                local: try need(values[Keys.local], "local", kind),
                remote: try need(values[Keys.remote], "remote", kind))
        case .connected:
            return .inherited(Int32(clamping: try need(values[Keys.fd], "fd", kind)))
        }
    }

    private static func need<Value>(
        _ value: Value?, _ key: String, _ kind: Kind
    ) throws(OptionError) -> Value {
        guard let value else { throw OptionError("type=\(kind.rawValue) needs \(key)") }
        return value
    }
}
