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
        /// The host's own sockets, by a program that is started for that.
        case user(UserNetwork)
        /// A tap interface of the host, one queue for each pair of the device's.
        case tap(name: String, queues: Int)
        /// Queues of such an interface that the parent process left open; whether the kernel takes and
        /// gives frames with virtio's header there.
        case inheritedTap([Int32], hasHeader: Bool)

        /// Pairs of queues.
        package var pairCount: Int {
            switch self {
            case .tap(_, let queues): queues
            case .inheritedTap(let queues, _): queues.count
            default: 1
            }
        }
    }

    /// Who waits for whom.
    package enum Role: Equatable, Sendable { case client, server }

    package var link: Link
    /// `nil`: the driver makes one up.
    package var mac: MACAddress?
    /// `nil`: the driver is told none.
    package var mtu: UInt16?
    package var maximumQueueSize: UInt16
    /// Bits in a second, and packets, from the guest and to it; 0: as many as there are.
    package var rate = Rate()
    package var packetRate = Rate()
    /// `IdlePolling.forEver`: the threads never sleep.
    package var pollMicroseconds = IdlePolling.usualMicroseconds

    package struct Rate: Equatable, Sendable {
        package var out: UInt64 = 0
        package var `in`: UInt64 = 0

        /// One number for both directions, or one for each.
        init(_ numbers: [UInt64]? = nil, key: String = "") throws(OptionError) {
            guard let numbers else { return }
            guard let first = numbers.first, let last = numbers.last, numbers.count <= 2 else {
                throw OptionError("\(key) is one number, or two: from the guest and to it")
            }
            (out, self.in) = (first, last)
        }

        init() {}
    }

    enum Kind: String, CaseIterable, Sendable { case user, stream, dgram, tap, connected, none }

    private enum Keys {
        static let type = OptionKey.required(
            "type", .choice(Kind.self),
            help: "what it is connected to: the host's network, by its sockets, user, or by an "
                + "interface, tap; a Unix socket, stream or dgram, as QEMU's -netdev of that name; an "
                + "open socket, connected; or nothing, none")
        static let upLinkType = OptionKey.required(
            "type", .choice(among: [.stream, .tap, .connected] as [Kind]),
            help: "what it is: an interface of the host, tap; a Unix socket, stream, as QEMU's "
                + "-netdev of that name; or an open socket, connected")
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
        static let tcpPorts = OptionKey<[String]?>(
            "tcp-ports", .list(of: .string),
            help: "the host's ports that lead to the guest with type=user, such as [2222:22,8080]; "
                + "as passt writes them")
        static let udpPorts = OptionKey<[String]?>(
            "udp-ports", .list(of: .string), help: "likewise")
        static let passt = OptionKey<String?>(
            "passt", .path, help: "the program of type=user, if it is not in /usr/bin")
        static let arguments = OptionKey<[String]?>(
            "args", .list(of: .string),
            help: "what else it is to be told, such as [--ipv4-only,--mtu,1500]")
        static let interface = OptionKey<String?>(
            "ifname", .path, help: "the interface of type=tap, made if there is none")
        static let queues = OptionKey(
            "queues", .integer(1...16), default: 1,
            help: "pairs of queues of type=tap, each with a thread")
        static let fds = OptionKey<[UInt64]?>(
            "fds", .list(of: .integer(0...UInt64(Int32.max))),
            help: "open queues of type=tap, one for each pair, instead of ifname")
        static let vnetHeader = OptionKey(
            "vnet-header", .bool, default: true,
            help:
                "whether fds were opened with IFF_VNET_HDR, which leaves checksums and segments to "
                + "the host")
        static let mac = OptionKey<MACAddress?>(
            "mac", MACAddress.optionType,
            help: "the interface's address; by default the guest makes one up")
        static let mtu = OptionKey<UInt64?>(
            "mtu", .integer(68...65521), help: "the largest packet that the guest may use")
        static let rate = OptionKey<[UInt64]?>(
            "rate", .list(of: .rate),
            help: "the most bits in a second, such as 100M, or [10M,1G] for those from the guest "
                + "and to it")
        static let packetRate = OptionKey<[UInt64]?>(
            "packet-rate", .list(of: .rate), help: "the most packets in a second, likewise")
        static let queueSize = OptionKey(
            "queue-size", .integer(2...1024), default: 256, help: "most entries in a queue")
        static let poll = OptionKey(
            "poll-us", .pollMicroseconds, default: IdlePolling.usualMicroseconds,
            help: "how long to look for frames before sleeping, in microseconds: at most, or ten "
                + "times that where it halves the wait; or always")
    }

    package static let schema = OptionSchema(
        "net", leadingKey: "type",
        keys: [
            Keys.type.any, Keys.path.any, Keys.server.any, Keys.local.any, Keys.remote.any,
            Keys.fd.any, Keys.tcpPorts.any, Keys.udpPorts.any, Keys.passt.any,
            Keys.arguments.any, Keys.interface.any, Keys.queues.any, Keys.fds.any,
            Keys.vnetHeader.any, Keys.mac.any, Keys.mtu.any, Keys.rate.any, Keys.packetRate.any,
            Keys.queueSize.any,
            Keys.poll.any,
        ])

    /// What can be said of a switch's up-link.
    package static let upLinkSchema = OptionSchema(
        "uplink", leadingKey: "type",
        keys: [
            Keys.upLinkType.any, Keys.path.any, Keys.server.any, Keys.interface.any, Keys.fd.any,
        ])

    /// Where a front end finds a switch's port.
    static let portPath = OptionKey.required("path", .path, help: "the socket to listen at")

    /// What can be said of a port of a switch that is a device.
    static let portSchema = OptionSchema(
        "vhost", leadingKey: "path",
        keys: [
            portPath.any, Keys.mac.any, Keys.mtu.any, Keys.rate.any, Keys.packetRate.any,
            Keys.queueSize.any,
        ])

    /// Takes what `portSchema` has parsed.
    init(port values: OptionValues) throws(OptionError) {
        link = .none
        mac = values[Keys.mac]
        mtu = values[Keys.mtu].map { UInt16(clamping: $0) }
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
        rate = try Rate(values[Keys.rate], key: "rate")
        packetRate = try Rate(values[Keys.packetRate], key: "packet-rate")
    }

    /// Takes what `upLinkSchema` has parsed.
    package init(upLink values: OptionValues) throws(OptionError) {
        do throws(OptionError) {
            let kind = values[Keys.upLinkType]
            if kind == .tap { _ = try Self.need(values[Keys.interface], "ifname", kind) }
            link = try Self.link(kind, values)
        } catch {
            throw error.inside("--uplink")
        }
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
    }

    /// Takes what `schema` has parsed.
    package init(_ values: OptionValues) throws(OptionError) {
        link = try Self.link(values[Keys.type], values)
        mac = values[Keys.mac]
        mtu = values[Keys.mtu].map { UInt16(clamping: $0) }
        maximumQueueSize = UInt16(clamping: values[Keys.queueSize])
        rate = try Rate(values[Keys.rate], key: "rate")
        packetRate = try Rate(values[Keys.packetRate], key: "packet-rate")
        pollMicroseconds = values[Keys.poll]
    }

    private static func link(
        _ kind: Kind, _ values: OptionValues
    ) throws(OptionError) -> Link {
        let owners: [(key: String, kind: Kind, isGiven: Bool)] = [
            ("path", .stream, values.isGiven(Keys.path)),
            ("server", .stream, values.isGiven(Keys.server)),
            ("local", .dgram, values.isGiven(Keys.local)),
            ("remote", .dgram, values.isGiven(Keys.remote)),
            ("fd", .connected, values.isGiven(Keys.fd)),
            ("tcp-ports", .user, values.isGiven(Keys.tcpPorts)),
            ("udp-ports", .user, values.isGiven(Keys.udpPorts)),
            ("passt", .user, values.isGiven(Keys.passt)),
            ("args", .user, values.isGiven(Keys.arguments)),
            ("ifname", .tap, values.isGiven(Keys.interface)),
            ("queues", .tap, values.isGiven(Keys.queues)),
            ("fds", .tap, values.isGiven(Keys.fds)),
            ("vnet-header", .tap, values.isGiven(Keys.vnetHeader)),
        ]
        for owner in owners where owner.isGiven && owner.kind != kind {
            throw OptionError("\(owner.key) needs type=\(owner.kind.rawValue)")
        }
        switch kind {
        case .none: return .none
        case .user:
            return .user(
                UserNetwork(
                    program: values[Keys.passt], tcpPorts: values[Keys.tcpPorts] ?? [],
                    udpPorts: values[Keys.udpPorts] ?? [],
                    arguments: values[Keys.arguments] ?? []))
        case .stream:
            let path = try need(values[Keys.path], "path", kind)
            return .stream(path: path, role: values[Keys.server] ? .server : .client)
        case .dgram:
            return .datagram(
                local: try need(values[Keys.local], "local", kind),
                remote: try need(values[Keys.remote], "remote", kind))
        case .tap: return try tap(values)
        case .connected:
            return .inherited(Int32(clamping: try need(values[Keys.fd], "fd", kind)))
        }
    }

    private static func tap(_ values: OptionValues) throws(OptionError) -> Link {
        switch (values[Keys.interface], values[Keys.fds]) {
        case (_?, nil) where values.isGiven(Keys.vnetHeader):
            throw OptionError("vnet-header goes with fds")
        case (let name?, nil): return .tap(name: name, queues: Int(clamping: values[Keys.queues]))
        case (nil, let fds?) where !values.isGiven(Keys.queues) && (1...16).contains(fds.count):
            return .inheritedTap(
                fds.map { Int32(clamping: $0) }, hasHeader: values[Keys.vnetHeader])
        case (nil, nil): throw OptionError("type=tap needs ifname or fds")
        case (nil, _): throw OptionError("fds are 1 to 16, and go without queues")
        default: throw OptionError("ifname and fds exclude each other")
        }
    }

    private static func need<Value>(
        _ value: Value?, _ key: String, _ kind: Kind
    ) throws(OptionError) -> Value {
        guard let value else { throw OptionError("type=\(kind.rawValue) needs \(key)") }
        return value
    }
}

extension OptionType where Value == UInt64 {
    /// What `IdlePolling` takes.
    static var pollMicroseconds: Self {
        OptionType(
            placeholder: "N|always", format: { $0 == IdlePolling.forEver ? "always" : String($0) }
        ) { text throws(OptionError) in
            if text == "always" { return IdlePolling.forEver }
            guard let number = UInt64(text), number <= 1000 else {
                throw OptionError("'\(text)' is neither a number up to 1000 nor always")
            }
            return number
        }
    }

    /// So many in a second, with K, M or G for powers of 1000.
    fileprivate static var rate: Self {
        OptionType(placeholder: "RATE", format: { String($0) }) { text throws(OptionError) in
            let units: [(Character, UInt64)] = [
                ("K", 1000), ("M", 1_000_000), ("G", 1_000_000_000),
            ]
            let unit = units.first { text.uppercased().last == $0.0 }?.1
            let digits = unit == nil ? text[...] : text.dropLast()
            guard digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = UInt64(digits),
                number > 0, number <= 1_000_000_000_000 / (unit ?? 1)
            else { throw OptionError("'\(text)' is not a rate such as 100M or 5K") }
            return number * (unit ?? 1)
        }
    }
}
